"""One video: choose the keyframes, encode them, then encode, merge and drop the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    work = _Compression(model, toolkit, feed, query, recorder)
    selection = work.select()
    keys = selection.keyframes.cpu()
    is_key = torch.zeros(len(feed.span), dtype=torch.bool)
    is_key[keys] = True
    rest = (~is_key).nonzero().flatten()
    if plain(toolkit.merger).tokens_per_frame == 0:
        rest = rest[:0]  # the merged frames vanish, so they need not be encoded

    tokens: list[Tensor] = [torch.empty(0)] * len(feed.span)
    reference = work.encode_keyframes(keys, tokens, keep_patches=len(rest) > 0)
    work.merge(rest, keys, reference, tokens)
    work.note_extremes(len(keys))
    return work.assemble(tokens, is_key, selection)


@dataclass(frozen=True)
class _Compression:
    """The steps of `compress_video`, which all need the same things."""

    model: Any
    toolkit: Toolkit
    feed: VideoFeed
    query: Query
    recorder: Recorder

    def select(self) -> Selection:
        """Choose the keyframes."""
        toolkit, feed = self.toolkit, self.feed
        return select_frames(
            toolkit.selector,
            toolkit.selector_encoder,
            feed.rgb(ENCODER_CHUNK),
            len(feed.span),
            feed.timestamps,
            self.query.text,
            self.recorder,
            toolkit.name_of(toolkit.selector),
        )

    def encode_keyframes(
        self, keys: Tensor, tokens: list[Tensor], keep_patches: bool
    ) -> Tensor | None:
        """Put each keyframe's ``[M, D]`` into ``tokens``; their patches ``[K, P, D]``, if kept."""
        patches: list[Tensor] = []
        for slices, features in self._encode(keys, "keyframes"):
            if keep_patches:
                patches.append(features.patches)
            for index, kept in zip(slices.tolist(), features.tokens, strict=True):
                tokens[index] = kept
        return torch.cat(patches) if patches else None

    def merge(
        self, rest: Tensor, keys: Tensor, reference: Tensor | None, tokens: list[Tensor]
    ) -> None:
        """Put the merged tokens ``[T, D]`` of every other frame into ``tokens``."""
        merger = plain(self.toolkit.merger)
        name = self.toolkit.name_of(merger)
        for slices, features in self._encode(rest, "other frames"):
            with self.recorder.stage("merging") as stage:
                before = torch.searchsorted(keys, slices) - 1
                patches = features.patches
                nearest = (
                    torch.zeros_like(patches)
                    if reference is None
                    else reference[before.clamp(min=0).to(reference.device)]
                )
                known = (before >= 0).to(patches.device)
                merged = merger(patches, nearest, known, self.query.for_merger(patches))
                rows = _checked(merged, patches, name)
                for index, token in zip(slices.tolist(), rows, strict=True):
                    tokens[index] = token
                    stage.bytes += token.nbytes

    def _encode(self, slices: Tensor, what: str) -> Iterator[tuple[Tensor, SliceFeatures]]:
        """Vision tower and projector over some slices, one chunk at a time."""
        if not len(slices):
            return
        done, device = 0, input_device(self.model)
        chunks = self.feed.pixels(slices.tolist(), self.toolkit.chunk_frames)
        for numbers, pixels in self.recorder.waited("decoding", chunks):
            with self.recorder.stage(f"vision tower ({what})") as stage:
                on_device = {name: value.to(device) for name, value in pixels.items()}
                features = self.toolkit.adapter.encode(self.model, on_device)
                stage.bytes += features.patches.nbytes
            done += len(numbers)
            self.recorder.progress(f"vision tower ({what})", done, len(slices))
            yield numbers, features

    def note_extremes(self, keyframes: int) -> None:
        """Say what was lost, and where the selection left nothing to see or to compress."""
        self.recorder.warn(*self.feed.warnings)
        if keyframes == 0:
            self.recorder.warn(
                f"{self.feed.name}: no frame was good enough for a keyframe, so none keeps its "
                "tokens; loosen the selector's options"
            )
        if keyframes == len(self.feed.span):
            self.recorder.warn(
                f"{self.feed.name}: every frame is a keyframe, so nothing was compressed; ask for "
                "fewer than the frames that were read"
            )

    def assemble(
        self, tokens: list[Tensor], is_key: Tensor, selection: Selection
    ) -> CompressedVideo:
        """Order of time: token features, the placeholders they take, and the report's lines."""
        feed, span = self.feed, self.feed.span
        slots = span.slots.shape[1]
        lengths = torch.tensor([len(token) for token in tokens])
        slice_of = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
        within = torch.arange(len(slice_of)) - (lengths.cumsum(0) - lengths)[slice_of]
        # More merged tokens than placeholders in a slice: the last placeholder stands for them.
        positions = span.slots.cpu()[slice_of, within.clamp(max=slots - 1)]
        tail = self.toolkit.adapter.tail(self.model)
        kept = [token for token in tokens if len(token)]
        if not kept:
            raise ValueError(
                f"nothing is left of {feed.name}: the selector chose no keyframe and the merger "
                "drops the other frames; loosen the selector's options or choose another merger"
            )
        features = torch.cat(kept if tail is None else [*kept, tail.to(kept[0])])
        self.recorder.report.videos.append(
            VideoReport(
                name=feed.name,
                frames=feed.frames,
                keyframes=keyframes_of(selection, feed.timestamps, span.frames_per_slice),
                tokens_before=len(span) * slots + len(span.tail),
                tokens_after=len(features),
                query=self.query.text,
            )
        )
        return CompressedVideo(
            span=span,
            features=features,
            positions=torch.cat([positions, span.tail.cpu()]),
            slices=slice_of,
            cells=torch.where(is_key[slice_of], within, -1),
            seconds_per_slice=feed.seconds_per_slice,
        )


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
