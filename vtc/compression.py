"""One video: choose the keyframes, encode them, then encode, merge and drop the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.report import Recorder, VideoReport, keyframes_of
from vtc.selecting import select_frames
from vtc.toolkit import input_device, plain
from vtc.video_adapter import CompressedVideo

if TYPE_CHECKING:
    from vtc.feed import VideoFeed
    from vtc.frame_selector import Selection
    from vtc.query import Query
    from vtc.toolkit import Toolkit
    from vtc.video_adapter import SliceFeatures

ENCODER_CHUNK = 32
"""Frames decoded and given to the frame encoder at a time."""


def compress_video(
    model: Any, toolkit: Toolkit, feed: VideoFeed, query: Query, recorder: Recorder
) -> CompressedVideo:
    """Turn one video into K*M + (N-K)*T + t token features.

    Keyframes are encoded first, since the others are merged against the nearest one before them;
    the rest goes through the vision tower chunk by chunk and only the merged tokens stay.
    """
    count = len(feed.span)
    selection = select_frames(
        toolkit.selector,
        toolkit.encoder,
        feed.rgb(ENCODER_CHUNK),
        count,
        feed.timestamps,
        query.text,
        recorder,
        toolkit.name_of(toolkit.selector),
    )
    keys = selection.keyframes.cpu()
    is_key = torch.zeros(count, dtype=torch.bool)
    is_key[keys] = True
    rest = (~is_key).nonzero().flatten()

    merger = plain(toolkit.merger)
    if merger.tokens_per_frame == 0:
        rest = rest[:0]  # the merged frames vanish, so they need not be encoded

    tokens: list[Tensor] = [torch.empty(0)] * count
    references: list[Tensor] = []
    for slices, features in _encode(model, toolkit, feed, keys, "keyframes", recorder):
        if len(rest):
            references.append(features.patches)
        for index, kept in zip(slices.tolist(), features.tokens, strict=True):
            tokens[index] = kept
    reference = torch.cat(references) if references else None
    del references  # or the keyframes' patches would stay twice
    for slices, features in _encode(model, toolkit, feed, rest, "other frames", recorder):
        with recorder.stage("merging") as stage:
            before = torch.searchsorted(keys, slices) - 1
            patches = features.patches
            nearest = (
                torch.zeros_like(patches)
                if reference is None
                else reference[before.clamp(min=0).to(reference.device)]
            )
            known = (before >= 0).to(patches.device)
            merged = merger(patches, nearest, known, query.for_merger(patches))
            merged = _checked(merged, patches, toolkit.name_of(merger))
            for index, token in zip(slices.tolist(), merged, strict=True):
                tokens[index] = token
                stage.bytes += token.nbytes

    recorder.warn(*feed.warnings)
    if not len(keys):
        recorder.warn(
            f"{feed.name}: no frame was good enough for a keyframe, so none keeps its tokens; "
            "loosen the selector's options"
        )
    if len(keys) == count:
        recorder.warn(
            f"{feed.name}: every frame is a keyframe, so nothing was compressed; ask for fewer "
            "than the frames that were read"
        )
    return _assemble(model, toolkit, feed, tokens, selection, query, recorder)


def _checked(merged: Any, patches: Tensor, name: str) -> list[Tensor]:
    """The merged tokens of each frame, of the right shape, without the patches behind them."""
    frames, width = len(patches), patches.shape[-1]
    rows = merged if isinstance(merged, (list, Tensor)) else None
    if (
        rows is None
        or len(rows) != frames
        or any(row.ndim != 2 or row.shape[1] != width for row in rows)
    ):
        given = tuple(merged.shape) if isinstance(merged, Tensor) else type(merged).__name__
        raise ValueError(
            f"merger {name!r} returned {given} for {frames} frames of width {width}; allowed is a "
            f"tensor [{frames}, T, {width}], or a list of {frames} tensors [T_i, {width}]"
        )
    # A view of the patches would keep the patches of all frames alive.
    if isinstance(merged, Tensor):
        merged = _compact(merged)
    return [_compact(row) if isinstance(rows, list) else row for row in merged]


def _compact(tokens: Tensor) -> Tensor:
    held = 0 if tokens.is_meta else tokens.untyped_storage().nbytes()
    return tokens.clone() if held > 2 * tokens.nbytes and not tokens.requires_grad else tokens


def _encode(
    model: Any, toolkit: Toolkit, feed: VideoFeed, slices: Tensor, what: str, recorder: Recorder
) -> Any:
    """Vision tower and projector over some slices, one chunk at a time."""
    done = 0
    chunks = feed.pixels(slices.tolist(), toolkit.chunk_frames) if len(slices) else iter(())
    for numbers, pixels in recorder.waited("decoding", chunks):
        with recorder.stage(f"vision tower ({what})") as stage:
            on_device = {name: value.to(input_device(model)) for name, value in pixels.items()}
            features: SliceFeatures = toolkit.adapter.encode(model, on_device)
            stage.bytes += features.patches.nbytes
        done += len(numbers)
        recorder.progress(f"vision tower ({what})", done, len(slices))
        yield numbers, features


def _assemble(
    model: Any,
    toolkit: Toolkit,
    feed: VideoFeed,
    tokens: list[Tensor],
    selection: Selection,
    query: Query,
    recorder: Recorder,
) -> CompressedVideo:
    """Order of time: token features, the placeholders they take, and the report's lines."""
    span = feed.span
    slots = span.slots.shape[1]
    lengths = torch.tensor([len(token) for token in tokens])
    slice_of = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
    within = torch.arange(len(slice_of)) - (lengths.cumsum(0) - lengths)[slice_of]
    # More merged tokens than placeholders in a slice: the last placeholder stands for them.
    positions = span.slots.cpu()[slice_of, within.clamp(max=slots - 1)]
    tail = toolkit.adapter.tail(model)
    kept = [token for token in tokens if len(token)]
    features = torch.cat(kept if tail is None else [*kept, tail.to(kept[0] if kept else tail)])
    positions = torch.cat([positions, span.tail.cpu()])

    is_key = torch.zeros(len(tokens), dtype=torch.bool)
    is_key[selection.keyframes.cpu()] = True
    recorder.report.videos.append(
        VideoReport(
            name=feed.name,
            frames=feed.frames,
            keyframes=keyframes_of(selection, feed.timestamps, span.frames_per_slice),
            tokens_before=len(span) * slots + len(span.tail),
            tokens_after=len(features),
            query=query.text,
        )
    )
    return CompressedVideo(
        span=span,
        features=features,
        positions=positions,
        slices=slice_of,
        cells=torch.where(is_key[slice_of], within, -1),
        seconds_per_slice=feed.seconds_per_slice,
    )
