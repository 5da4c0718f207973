"""Locate the videos of a call: their placeholders, their frames and their processors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.interfaces.video_span import VideoSpan
from vtc.pipeline.feed import SourceFeed, TensorFeed, VideoFeed, VideoRequest

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.pipeline.call import Call


def has_video(adapter: VideoAdapter, inputs: Mapping[str, Any]) -> bool:
    """Return whether a call has a video: tensors of the processor or lazy sources.

    Raises:
        ValueError: ``vtc_frames`` does not fit the family or the other inputs.
    """
    if inputs.get("vtc_videos") is not None:
        return True
    raw = inputs.get(adapter.video_inputs[0])
    if adapter.modality == "video":
        if inputs.get("vtc_frames") is not None:
            raise ValueError(
                "vtc_frames marks the still images that are frames of a video; this family takes "
                "videos directly, so leave it out"
            )
        return raw is not None
    # Frames enter as still images, so the caller marks them.
    frames = inputs.get("vtc_frames")
    frames = frames.tolist() if isinstance(frames, Tensor) else frames
    some = any(frames) if isinstance(frames, (list, tuple)) else bool(frames)
    if some and raw is None:
        raise ValueError(
            f"vtc_frames={frames!r} was given, but no {adapter.video_inputs[0]} whose pictures "
            "could be frames"
        )
    return some


def locate_videos(call: Call) -> tuple[list[VideoFeed], list[Any]]:
    """Return the videos in the order of their placeholders, and each row's processor.

    Raises:
        ValueError: The placeholders and the videos do not fit.
    """
    adapter, inputs = call.adapter, call.inputs
    requests: list[VideoRequest] | None = inputs.get("vtc_videos")
    if requests is not None and not requests:
        raise ValueError("vtc_videos=[] holds no video; leave it out for a call without one")
    if requests is not None:
        if inputs.get(adapter.video_inputs[0]) is not None:
            raise ValueError(f"give either vtc_videos or {adapter.video_inputs[0]}, not both")
        return _lazy_videos(call, requests)
    spans = adapter.spans(call.model, inputs, call.start)
    feeds: list[VideoFeed] = [
        TensorFeed(adapter, inputs, span, video, call.processor) for video, span in enumerate(spans)
    ]
    return feeds, [call.processor] * len(inputs["input_ids"])


def _lazy_videos(call: Call, requests: list[VideoRequest]) -> tuple[list[VideoFeed], list[Any]]:
    adapter, ids = call.adapter, call.inputs["input_ids"]
    places = (ids == adapter.video_token_id(call.model)).nonzero()
    places = places[places[:, 1] >= call.start]
    step = adapter.frames_per_slice
    counts = [
        -(-len(request.source) // step) if adapter.placeholder_per_slice else 1
        for request in requests
    ]
    if len(places) != sum(counts):
        raise ValueError(
            f"input_ids has {len(places)} video placeholders, but the {len(requests)} lazy videos "
            f"need {sum(counts)}; make both with one call of vtc.prepare_inputs"
        )
    processors = [call.processor] * len(ids)
    feeds: list[VideoFeed] = []
    for slots, request in zip(places.split(counts), requests, strict=True):
        row = int(slots[0, 0])
        processors[row] = request.processor
        span = _lazy_span(call.model, adapter, request, row, slots[:, 1].cpu())
        feeds.append(SourceFeed(adapter, request, span))
    return feeds, processors


def _lazy_span(
    model: Any, adapter: VideoAdapter, request: VideoRequest, row: int, places: Tensor
) -> VideoSpan:
    """Return the span of a video whose placeholders are not expanded: views of one position."""
    source, step = request.source, adapter.frames_per_slice
    blank = torch.zeros(step, source.height, source.width, 3, dtype=torch.uint8)
    pixels = adapter.preprocess(request.processor, blank, len(source))
    grid = adapter.slice_grid(model, pixels)
    slots = places[:, None].expand(-(-len(source) // step), grid[0] * grid[1])
    return VideoSpan(
        row=row,
        slots=slots,
        tail=places[-1].expand(adapter.tail_length()),
        grid=grid,
        frames_per_slice=step,
        frame_text=adapter.frame_text(slots),
    )
