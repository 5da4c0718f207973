"""From the caller's inputs to the inputs of the stock model: the heart of the toolkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import CompressedVideo, Layout, VideoSpan
from vtc.pipeline.compress import compress_video
from vtc.pipeline.connector import PatchConnector
from vtc.pipeline.feed import SourceFeed, TensorFeed, VideoFeed, VideoRequest
from vtc.pipeline.kv_cache import cached_length, given_cache
from vtc.pipeline.modules import active_module, input_device
from vtc.pipeline.query import Query, row_texts
from vtc.pipeline.report import Recorder, Report
from vtc.pipeline.rows import rewrite_rows

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.pipeline.toolkit import Toolkit

OUR_INPUTS = ("vtc_query", "vtc_videos", "vtc_frames", "vtc_restore_prompt")
"""Arguments of the wrapped ``forward`` and ``generate`` that the stock model does not know."""
VIDEOS_AHEAD = 2
"""Videos of a batch that begin to be decoded while one before them is compressed."""


@dataclass(frozen=True)
class Prepared:
    """Inputs that the stock model takes as they are.

    Attributes:
        inputs: The caller's, with the ids shortened and the videos as ``mm_encoder_outputs``,
            in the form of `RowFeatures`.
        report: What was done.
    """

    inputs: dict[str, Any]
    report: Report


@dataclass
class RowFeatures(BaseModelOutputWithPooling):  # type: ignore[misc]
    """Features before `VideoAdapter.pack`: a list of ``[F, D]``, one for each row with a video.

    The stock ``generate`` repeats a list for beams row by row, where it would mix up what some
    families' ``forward`` takes; so they are packed when ``forward`` is reached.
    """


def has_video(toolkit: Toolkit, inputs: Mapping[str, Any]) -> bool:
    """Whether a call brings a video: tensors of the processor or lazy sources."""
    if inputs.get("vtc_videos") is not None:
        return True
    raw = inputs.get(toolkit.adapter.video_inputs[0])
    if toolkit.adapter.modality == "video":
        if inputs.get("vtc_frames") is not None:
            raise ValueError(
                "vtc_frames says which still images are frames of a video; this family takes "
                "videos as such, so leave it out"
            )
        return raw is not None
    # Frames look like still images, so the caller says which they are.
    said = inputs.get("vtc_frames")
    said = said.tolist() if isinstance(said, Tensor) else said
    some = any(said) if isinstance(said, (list, tuple)) else bool(said)
    if some and raw is None:
        raise ValueError(
            f"vtc_frames={said!r} was given, but no {toolkit.adapter.video_inputs[0]} whose "
            "pictures could be frames"
        )
    return some


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
    cached = cached_length(given_cache(inputs))
    start = cached if generating else 0  # forward takes the new ids only
    toolkit.place_encoders(input_device(model))
    feeds, processors = _feeds(model, toolkit, inputs, start)
    report = Report(
        selector=toolkit.describe(toolkit.selector), merger=toolkit.describe(toolkit.merger)
    )
    recorder = Recorder(report, toolkit.progress)
    if not torch.is_grad_enabled():  # or it may be about to be trained
        recorder.warn(*toolkit.untrained_warnings())
    asked = toolkit.selector.uses_query or active_module(toolkit.merger).query_source is not None
    texts: list[str | None] = [None] * len(inputs["input_ids"])
    if asked or inputs.get("vtc_query") is not None:
        texts = row_texts(model, toolkit, inputs, processors)
    queries = [
        Query(text, model, toolkit, processor)
        for text, processor in zip(texts, processors, strict=True)
    ]
    videos = _compress_all(model, toolkit, feeds, queries, recorder)
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
    features = _by_row(videos, adapter.stills(model, inputs, layout))
    rewritten["mm_encoder_outputs"] = {
        **(kept.get("mm_encoder_outputs") or {}),
        adapter.modality: RowFeatures(pooler_output=features),
    }
    return Prepared(rewritten, report)


def _compress_all(
    model: Any,
    toolkit: Toolkit,
    feeds: Sequence[VideoFeed],
    queries: Sequence[Query],
    recorder: Recorder,
) -> list[CompressedVideo]:
    """The videos of a batch, one after another, where the next ones are decoded meanwhile.

    Args:
        queries: What is asked in each row.
    """
    reads = toolkit.selector.uses_embeddings or isinstance(
        active_module(toolkit.connector), PatchConnector
    )
    videos = []
    with ExitStack() as stack:
        for number, feed in enumerate(feeds):
            for near in feeds[number : number + 1 + VIDEOS_AHEAD] if reads else ():
                stack.enter_context(near.decoding_ahead())
            videos.append(compress_video(model, toolkit, feed, queries[feed.span.row], recorder))
    return videos


def packed(model: Any, toolkit: Toolkit, encoded: Any) -> Any:
    """``mm_encoder_outputs`` as the stock ``forward`` takes them."""
    adapter = toolkit.adapter
    rows = encoded.get(adapter.modality) if isinstance(encoded, dict) else None
    if not isinstance(rows, RowFeatures):
        return encoded
    return {**encoded, adapter.modality: adapter.pack(model, list(rows.pooler_output))}


def _by_row(videos: list[CompressedVideo], stills: list[tuple[int, int, Tensor]]) -> list[Tensor]:
    """The features of each row's placeholders, in their order."""
    pieces = [(video.span.row, video.span.first, video.features) for video in videos] + stills
    pieces.sort(key=lambda piece: piece[:2])
    rows = sorted({row for row, _, _ in pieces})
    return [torch.cat([found for at, _, found in pieces if at == row]) for row in rows]


def _without_cached_mask(
    inputs: Mapping[str, Any], generating: bool
) -> tuple[Mapping[str, Any], Tensor | None]:
    """Part the mask of a cache off, which ``forward`` takes before that of the new tokens."""
    cached = cached_length(given_cache(inputs))
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
    each = adapter.frames_per_slice
    counts = [
        -(-len(request.source) // each) if adapter.placeholder_per_slice else 1
        for request in requests
    ]
    if len(places) != sum(counts):
        raise ValueError(
            f"input_ids has {len(places)} video placeholders, but the {len(requests)} lazy videos "
            f"need {sum(counts)}; make both with one call of vtc.prepare_inputs"
        )
    processors = [toolkit.processor] * len(ids)
    feeds = []
    for found, request in zip(places.split(counts), requests, strict=True):
        row = int(found[0, 0])
        processors[row] = request.processor
        span = _lazy_span(model, adapter, request, row, found[:, 1].cpu())
        feeds.append(SourceFeed(adapter, request, span))
    return feeds, processors


def _lazy_span(
    model: Any, adapter: VideoAdapter, request: VideoRequest, row: int, places: Tensor
) -> VideoSpan:
    """The span of placeholders that were never expanded: views of one position, no storage."""
    source, each = request.source, adapter.frames_per_slice
    blank = torch.zeros(each, source.height, source.width, 3, dtype=torch.uint8)
    pixels = adapter.preprocess(request.processor, blank, len(source))
    grid = adapter.slice_grid(model, pixels)
    slots = places[:, None].expand(-(-len(source) // each), grid[0] * grid[1])
    return VideoSpan(
        row=row,
        slots=slots,
        tail=places[-1].expand(adapter.tail_length()),
        grid=grid,
        frames_per_slice=each,
        frame_text=adapter.frame_text(slots),
    )


def _padding_id(model: Any) -> int:
    text = model.config.get_text_config()
    for config in (model.generation_config, text):
        token = getattr(config, "pad_token_id", None)
        if token is not None:
            return int(token)
    return 0
