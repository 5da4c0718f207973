"""From the caller's inputs to the inputs of the stock model: the heart of the toolkit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.compression import compress_video
from vtc.feed import SourceFeed, TensorFeed, VideoFeed, VideoRequest
from vtc.query import Query, row_texts
from vtc.report import Recorder, Report
from vtc.rows import rewrite_rows
from vtc.toolkit import input_device, plain
from vtc.video_adapter import CompressedVideo, Layout, VideoSpan

if TYPE_CHECKING:
    from vtc.toolkit import Toolkit
    from vtc.video_adapter import VideoAdapter

OUR_INPUTS = ("vtc_query", "vtc_videos", "vtc_restore_prompt")
"""Arguments of the wrapped ``forward`` and ``generate`` that the stock model does not know."""


@dataclass(frozen=True)
class Prepared:
    """Inputs that the stock model takes as they are.

    Attributes:
        inputs: The caller's, with the ids shortened and the videos as ``mm_encoder_outputs``.
        videos: The videos in the order of their placeholders.
        report: What was done.
    """

    inputs: dict[str, Any]
    videos: list[CompressedVideo]
    report: Report


def has_video(toolkit: Toolkit, inputs: Mapping[str, Any]) -> bool:
    """Whether a call brings a video: tensors of the processor or lazy sources."""
    raw = inputs.get(toolkit.adapter.video_inputs[0])
    return raw is not None or inputs.get("vtc_videos") is not None


def prepare(
    model: Any, toolkit: Toolkit, inputs: Mapping[str, Any], generating: bool = False
) -> Prepared:
    """Compress the videos of a call.

    Args:
        inputs: What the stock ``forward`` takes, or ``input_ids`` with one placeholder a video
            and ``vtc_videos``, a list of ``VideoRequest``; ``vtc_query`` says what is asked.
        generating: Whether ``generate`` takes the result, whose positions may differ in form.

    Raises:
        ValueError: The placeholders and the videos do not fit; the selector needs a query.
    """
    adapter = toolkit.adapter
    inputs, earlier = _without_cached_mask(inputs, generating)
    _refuse_what_cannot_be_shortened(toolkit, inputs)
    cached = cached_length(inputs.get("past_key_values"))
    start = cached if generating else 0  # forward takes the new ids only
    toolkit.place_encoders(input_device(model))
    feeds, processors = _feeds(model, toolkit, inputs, start)
    report = Report(
        selector=toolkit.describe(toolkit.selector), merger=toolkit.describe(toolkit.merger)
    )
    recorder = Recorder(report, toolkit.progress)
    asked = toolkit.selector.uses_query or plain(toolkit.merger).query_source is not None
    texts: list[str | None] = [None] * len(inputs["input_ids"])
    if asked or inputs.get("vtc_query") is not None:
        texts = row_texts(model, toolkit, inputs, processors)
    queries = [
        Query(text, model, toolkit, processor)
        for text, processor in zip(texts, processors, strict=True)
    ]
    videos = [
        compress_video(model, toolkit, feed, queries[feed.span.row], recorder) for feed in feeds
    ]
    dropped = {*adapter.video_inputs, *OUR_INPUTS}
    kept = {name: value for name, value in inputs.items() if name not in dropped}
    rewritten, rows = rewrite_rows(kept, videos, _padding_id(model))
    layout = Layout(rows, videos, rewritten["attention_mask"], start, cached, generating)
    positions = adapter.position_ids(model, inputs, layout)
    if positions is not None:
        rewritten["position_ids"] = positions
    if earlier is not None:
        rewritten["attention_mask"] = torch.cat([earlier, rewritten["attention_mask"]], dim=1)
    if rewritten.get("labels") is not None:
        if model.training and inputs.get("num_items_in_batch") is not None:
            _refuse_learned_placeholders(model, adapter, inputs)
        # Placeholders are never learned, whatever the caller's labels say of them.
        visual = rewritten["input_ids"] == adapter.video_token_id(model)
        rewritten["labels"] = rewritten["labels"].masked_fill(visual, -100)
    rewritten["mm_encoder_outputs"] = {
        **(kept.get("mm_encoder_outputs") or {}),
        "video": adapter.pack([video.features for video in videos]),
    }
    return Prepared(rewritten, videos, report)


def _without_cached_mask(
    inputs: Mapping[str, Any], generating: bool
) -> tuple[Mapping[str, Any], Tensor | None]:
    """Part the mask of a cache off, which ``forward`` takes before that of the new tokens."""
    cached = cached_length(inputs.get("past_key_values"))
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if generating or cached == 0 or ids is None:
        return inputs, None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != cached + ids.shape[1]:
        return inputs, ids.new_ones(len(ids), cached)
    return {**inputs, "attention_mask": mask[:, cached:]}, mask[:, :cached]


def _refuse_what_cannot_be_shortened(toolkit: Toolkit, inputs: Mapping[str, Any]) -> None:
    ids = inputs.get("input_ids")
    if ids is None:
        raise ValueError(
            "a video was given without input_ids; the placeholders in input_ids say where it "
            "stands, and inputs_embeds alone cannot be compressed"
        )
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape):
        raise ValueError(
            f"attention_mask must be a tensor of input_ids' shape {tuple(ids.shape)}, so that it "
            "can be shortened with them"
        )
    if inputs.get("shift_labels") is not None:
        raise ValueError("shift_labels cannot be shortened; give labels")
    if inputs.get("inputs_embeds") is not None:
        raise ValueError("give input_ids or inputs_embeds beside a video, not both")
    if isinstance(inputs.get("logits_to_keep"), Tensor):
        raise ValueError(
            "logits_to_keep as a tensor counts positions of the prompt before it is shortened; "
            "give a number, which counts from the end"
        )
    for name in toolkit.adapter.fixed_inputs:
        if inputs.get(name) is not None:
            raise ValueError(f"{name} cannot be changed in a call; set model.config.{name}")


def _refuse_learned_placeholders(
    model: Any, adapter: VideoAdapter, inputs: Mapping[str, Any]
) -> None:
    """The Trainer divides the loss by the labels it counted, also those that are never learned."""
    counted = (inputs["input_ids"] == adapter.video_token_id(model)) & (inputs["labels"] != -100)
    if bool(counted.any()):
        raise ValueError(
            f"the labels teach {int(counted.sum())} video placeholders, which vtc never learns, "
            "but the Trainer has counted them (num_items_in_batch): set them to -100 in the data"
        )


def _feeds(
    model: Any, toolkit: Toolkit, inputs: Mapping[str, Any], start: int
) -> tuple[list[VideoFeed], list[Any]]:
    """The videos in the order of their placeholders, and each row's processor."""
    adapter, ids = toolkit.adapter, inputs["input_ids"]
    requests: list[VideoRequest] | None = inputs.get("vtc_videos")
    if requests is not None and not requests:
        raise ValueError("vtc_videos=[] holds no video; leave it out for a call without one")
    if requests is None:
        spans = adapter.spans(model, inputs, start)
        feeds: list[VideoFeed] = [
            TensorFeed(adapter, inputs, span, video, toolkit.processor)
            for video, span in enumerate(spans)
        ]
        return feeds, [toolkit.processor] * len(ids)
    if inputs.get(adapter.video_inputs[0]) is not None:
        raise ValueError(f"give either vtc_videos or {adapter.video_inputs[0]}, not both")
    places = (ids == adapter.video_token_id(model)).nonzero()
    places = places[places[:, 1] >= start]
    if len(places) != len(requests):
        raise ValueError(
            f"input_ids has {len(places)} video placeholders for {len(requests)} lazy videos; "
            "vtc.prepare_inputs writes one placeholder a video"
        )
    processors = [toolkit.processor] * len(ids)
    feeds = []
    for (row, place), request in zip(places.tolist(), requests, strict=True):
        processors[row] = request.processor
        span = _lazy_span(model, adapter, request, row, place)
        feeds.append(SourceFeed(adapter, request, span))
    return feeds, processors


def _lazy_span(
    model: Any, adapter: VideoAdapter, request: VideoRequest, row: int, place: int
) -> VideoSpan:
    """The span of a placeholder that was never expanded: views of one position, no storage."""
    source, each = request.source, adapter.frames_per_slice
    blank = torch.zeros(each, source.height, source.width, 3, dtype=torch.uint8)
    grid = adapter.slice_grid(model, adapter.preprocess(request.processor, blank))
    here = torch.tensor(place)
    return VideoSpan(
        row=row,
        slots=here.expand(-(-len(source) // each), grid[0] * grid[1]),
        tail=here.expand(adapter.tail_length()),
        grid=grid,
        frames_per_slice=each,
    )


def mark_shortened(cache: Any, restored_prompt: Tensor | None) -> None:
    """Note on a cache that it holds a shortened prompt, and which prompt the caller was given.

    What goes on from that prompt, or with its mask, does not fit the cache.
    """
    if cache is not None and not isinstance(cache, tuple):
        cache.vtc_is_shortened = True
        cache.vtc_restored_prompt = restored_prompt


def _padding_id(model: Any) -> int:
    text = model.config.get_text_config()
    for config in (model.generation_config, text):
        token = getattr(config, "pad_token_id", None)
        if token is not None:
            return int(token)
    return 0


def cached_length(cache: Any) -> int:
    """The tokens that a cache holds; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())
