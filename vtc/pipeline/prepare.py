"""Turn the caller's inputs into inputs of the stock model: the core of the toolkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import CompressedVideo, EncodedInput, Layout
from vtc.pipeline.compress import compress_video
from vtc.pipeline.locate import locate_videos
from vtc.pipeline.query import image_tokens, make_queries
from vtc.pipeline.rows import caller_index, shorten_rows
from vtc.pipeline.video_store import VideoStore

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.query import Query
    from vtc.pipeline.report import Report

OUR_INPUTS = ("vtc_query", "vtc_videos", "vtc_frames", "vtc_restore_prompt")
"""Arguments of the wrapped ``forward`` and ``generate`` that the stock model does not take."""
VIDEOS_AHEAD = 2
"""The number of next videos of a batch that are decoded while one is compressed."""


@dataclass(frozen=True)
class Prepared:
    """Inputs that the stock model takes as they are.

    Attributes:
        inputs: The caller's, with the ids shortened and the videos as ``mm_encoder_outputs``,
            in the form of `RowFeatures`.
        report: The report of the call.
        caller_index: ``[B, L]`` int64, the token of the shortened row for each position of the
            caller's row, see `vtc.pipeline.rows.caller_index`.
        offsets: ``[B, 1]`` int64, the offset of the positions of new tokens from the number of
            tokens; None if positions count tokens.
        encoded: The videos (and the images of ``modality``) in the order of their placeholders,
            for the result of ``forward``; empty for ``generate``, which returns none of them.
    """

    inputs: dict[str, Any]
    report: Report
    caller_index: Tensor
    offsets: Tensor | None = None
    encoded: tuple[EncodedInput, ...] = ()


@dataclass
class RowFeatures(BaseModelOutputWithPooling):  # type: ignore[misc]
    """Features before `VideoAdapter.pack`: a list of ``[F, D]``, one for each row with a video.

    For beam search the stock ``generate`` repeats a list row by row, but would mix up the packed
    form of some families. So features are packed in ``forward``.
    """


def prepare(call: Call) -> Prepared:
    """Compress the videos of a call.

    ``call.inputs`` holds the inputs of the stock ``forward``, or ``input_ids`` with one
    placeholder per video and ``vtc_videos``, a list of ``VideoRequest``; ``vtc_query`` is the
    query.

    Raises:
        ValueError: The placeholders and the videos do not fit; the selector needs a query; an
            input cannot be shortened.
    """
    _check_inputs(call)
    feeds, processors = locate_videos(call)
    call.spans = [feed.span for feed in feeds]
    call.warn_of_untrained()
    queries = make_queries(call, processors)
    videos = compress_videos(call, feeds, queries)
    inputs, layout = shorten_inputs(call, videos)
    call.report.videos[:] = [
        replace(report, prompt_tokens=len(layout.rows[feed.span.row]))
        for feed, report in zip(feeds, call.report.videos, strict=True)
    ]
    offsets = place_positions(call, inputs, layout)
    if call.cached_mask is not None:
        inputs["attention_mask"] = torch.cat([call.cached_mask, inputs["attention_mask"]], dim=1)
    encoded = _in_order(videos, call.adapter.stills(call.model, call.inputs, layout))
    inputs["mm_encoder_outputs"] = {
        **(inputs.get("mm_encoder_outputs") or {}),
        call.adapter.modality: RowFeatures(pooler_output=_by_row(encoded)),
    }
    index = caller_index(layout.rows, call.inputs["input_ids"].shape[1], layout.row_starts)
    kept = () if call.generating else tuple(encoded)
    return Prepared(inputs, call.report, index, offsets, kept)


def compress_videos(
    call: Call, feeds: Sequence[VideoFeed], queries: Sequence[Query]
) -> list[CompressedVideo]:
    """Compress the videos of a batch one after another, and decode the next ones meanwhile.

    Rows with the same ``VideoSource`` share one pass over it.

    Args:
        queries: The query of each row.

    Returns:
        One video for each feed, in their order, which is also the order of the report.
    """
    groups: dict[object, list[int]] = {}
    for number, feed in enumerate(feeds):
        groups.setdefault(feed.video, []).append(number)
    members = list(groups.values())
    videos: dict[int, CompressedVideo] = {}
    stores: dict[int, VideoStore] = {}
    with ExitStack() as stack:
        for number, group in enumerate(members):
            for first, *_ in members[number : number + 1 + VIDEOS_AHEAD]:
                if first not in stores:
                    stores[first] = VideoStore(call, feeds[first])
                if stores[first].needs_all_frames:
                    stack.enter_context(feeds[first].decoding_ahead())
            shared = [feeds[member] for member in group]
            group_queries = [queries[feed.span.row] for feed in shared]
            compressed = compress_video(call, shared, group_queries, stores.pop(group[0]))
            videos.update(zip(group, compressed, strict=True))
            shared[0].release()
    reports = dict(zip(videos, call.report.videos, strict=True))
    call.report.videos[:] = [reports[number] for number in range(len(feeds))]
    return [videos[number] for number in range(len(feeds))]


def shorten_inputs(call: Call, videos: list[CompressedVideo]) -> tuple[dict[str, Any], Layout]:
    """Shorten everything that runs along the sequence: ids, masks, labels, token types.

    The labels of placeholders are set to -100, so they are never learned.
    """
    dropped = {*call.adapter.video_inputs, *OUR_INPUTS}
    kept = {name: value for name, value in call.inputs.items() if name not in dropped}
    media = [call.adapter.video_token_id(call.model), *image_tokens(call.model)]
    inputs, rows, starts = shorten_rows(
        kept, videos, _padding_id(call.model), media, cached=call.start
    )
    if inputs.get("labels") is not None:
        if call.model.training and call.inputs.get("num_items_in_batch") is not None:
            _check_labels(call)
        visual = inputs["input_ids"] == call.adapter.video_token_id(call.model)
        inputs["labels"] = inputs["labels"].masked_fill(visual, -100)
    layout = Layout(
        rows=rows,
        row_starts=starts,
        videos=videos,
        mask=inputs["attention_mask"],
        start=call.start,
        cached=call.cached,
        generating=call.generating,
        cached_offsets=call.cached_offsets,
    )
    return inputs, layout


def place_positions(call: Call, inputs: dict[str, Any], layout: Layout) -> Tensor | None:
    """Set ``position_ids`` if the family computes them itself.

    Returns:
        ``[B, 1]`` int64, the offsets of positions after the prompt; None if they count tokens.
    """
    positions = call.adapter.position_ids(call.model, call.inputs, layout)
    if positions is None:
        return None
    inputs["position_ids"] = positions
    return call.adapter.position_offsets(positions, layout)


def packed(model: Any, adapter: VideoAdapter, encoded: Any) -> Any:
    """Return ``mm_encoder_outputs`` in the form that the stock ``forward`` takes."""
    rows = encoded.get(adapter.modality) if isinstance(encoded, dict) else None
    if not isinstance(rows, RowFeatures):
        return encoded
    return {**encoded, adapter.modality: adapter.pack(model, list(rows.pooler_output))}


def _in_order(
    videos: list[CompressedVideo], stills: list[tuple[int, int, Tensor]]
) -> list[EncodedInput]:
    """Return videos and still images in the order of their placeholders."""
    encoded = [
        EncodedInput(video.span.row, video.span.first, video.features, video.by_slice, video.hidden)
        for video in videos
    ]
    encoded += [EncodedInput(row, first, image, (image,)) for row, first, image in stills]
    return sorted(encoded, key=lambda media: (media.row, media.first))


def _by_row(encoded: list[EncodedInput]) -> list[Tensor]:
    """Return the features of each row's placeholders, in their order."""
    rows: dict[int, list[Tensor]] = {}
    for media in encoded:
        rows.setdefault(media.row, []).append(media.features)
    # A single tensor is not copied.
    return [row[0] if len(row) == 1 else torch.cat(row) for row in rows.values()]


def _check_inputs(call: Call) -> None:
    """Raise a ValueError if an input cannot be shortened."""
    inputs: Mapping[str, Any] = call.inputs
    ids = inputs.get("input_ids")
    if ids is None:
        raise ValueError(
            "a video was given without input_ids; the placeholders in input_ids mark its "
            "position, and inputs_embeds alone cannot be compressed"
        )
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape):
        raise ValueError(
            f"attention_mask must be a tensor of input_ids' shape {tuple(ids.shape)}, so that both "
            "can be shortened"
        )
    if inputs.get("shift_labels") is not None:
        raise ValueError("shift_labels cannot be shortened; give labels")
    if inputs.get("inputs_embeds") is not None:
        raise ValueError("give either input_ids or inputs_embeds with a video, not both")
    if isinstance(inputs.get("logits_to_keep"), Tensor):
        raise ValueError(
            "logits_to_keep as a tensor counts positions of the prompt before it is shortened; "
            "give a number, which counts from the end"
        )
    for name in call.adapter.fixed_inputs:
        if inputs.get(name) not in (None, getattr(call.model.config, name)):
            raise ValueError(f"{name} cannot be changed in a call; set model.config.{name}")


def _check_labels(call: Call) -> None:
    """Raise a ValueError if the Trainer has counted labels of placeholders.

    It divides the loss by the number of labels it counted, but these are never learned.
    """
    ids, labels = call.inputs["input_ids"], call.inputs["labels"]
    learned = (ids == call.adapter.video_token_id(call.model)) & (labels != -100)
    if bool(learned.any()):
        raise ValueError(
            f"the labels include {int(learned.sum())} video placeholders, which vtc never learns, "
            "but the Trainer has counted them (num_items_in_batch): set them to -100 in the data"
        )


def _padding_id(model: Any) -> int:
    text = model.config.get_text_config()
    for config in (model.generation_config, text):
        token = getattr(config, "pad_token_id", None)
        if token is not None:
            return int(token)
    return 0
