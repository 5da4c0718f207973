"""Compress one video: choose the keyframes, encode them, then encode, merge and drop the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.encoders.encoder_patches import PatchKeeper
from vtc.interfaces.part import part_errors
from vtc.pipeline.assemble import assemble_video
from vtc.pipeline.encode import encode_slices, project_encoder_patches
from vtc.pipeline.heat import HeatKeeper
from vtc.pipeline.merge import merge_slices, whole_groups
from vtc.pipeline.selection import embed_frames, select_frames
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.video_span import CompressedVideo, SliceFeatures
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.query import Query


@dataclass
class References:
    """The frames that non-keyframes are compared with.

    Attributes:
        numbers: ``[n]`` int64, the reference of each non-keyframe; -1 for none.
        distinct: ``[R]`` int64, the different ones among them, ascending.
        patches: ``[R, P, D]``, the patches of ``distinct``; None where there are none.
    """

    numbers: Tensor
    distinct: Tensor
    patches: Tensor | None = None

    def of(self, places: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reference patches of some non-keyframes, and which of them have any.

        Args:
            places: ``[c]`` int64, their places in ``numbers``.
            like: ``[c, P, D]``, their own patches.

        Returns:
            ``[c, P, D]``, zeros where there is no reference, and ``[c]`` bool.
        """
        numbers = self.numbers[places]
        has_reference = (numbers >= 0).to(like.device)
        if self.patches is None:
            return torch.zeros_like(like), has_reference
        rows = torch.searchsorted(self.distinct, numbers.clamp(min=0))
        rows = rows.clamp(max=len(self.distinct) - 1)
        return self.patches[rows.to(self.patches.device)], has_reference


def compress_video(call: Call, feed: VideoFeed, query: Query) -> CompressedVideo:
    """Turn one video into K*M + (N-K)*T + t token features.

    Keyframes are encoded first, since the others are merged against the nearest one before them
    (or against other frames that the merger names). The rest goes through the vision tower chunk
    by chunk, and only the merged tokens stay.
    """
    patches = None
    if call.merges_encoder_patches:
        dtype = call.model.get_input_embeddings().weight.dtype
        patches = PatchKeeper(call.encoder, len(feed.span), dtype)
    selection = select_keyframes(call, feed, query, patches)
    keyframes = selection.keyframes.cpu()
    is_keyframe = torch.zeros(len(feed.span), dtype=torch.bool)
    is_keyframe[keyframes] = True
    rest = (~is_keyframe).nonzero().flatten()
    if call.merger.tokens_per_frame == 0:
        rest = rest[:0]  # the merged frames vanish, so they need not be encoded

    tokens: list[Tensor] = [torch.empty(0)] * len(feed.span)
    numbers = reference_frames(call, feed, rest, keyframes)
    references = References(numbers, torch.unique(numbers[numbers >= 0]))
    references.patches = encode_keyframes(
        call, feed, keyframes, references.distinct, patches, tokens
    )
    heat = HeatKeeper(call, feed.span, rest, selection)
    merge_frames(call, feed, query, rest, references, patches, tokens, heat)
    return assemble_video(call, feed, query, tokens, is_keyframe, selection, heat.frames)


def select_keyframes(
    call: Call, feed: VideoFeed, query: Query, patches: PatchKeeper | None
) -> Selection:
    """Choose the keyframes; fill ``patches`` with the frame encoder's patches of all frames."""
    encoder: FrameEncoder = call.selector_encoder
    if patches is not None and encoder is call.encoder:
        encoder = patches
    selection = select_frames(
        call.selector,
        encoder,
        feed.rgb(),
        len(feed.span),
        feed.timestamps,
        query.for_selector if query.text is not None else None,
        call.recorder,
        call.selector_name,
    )
    if patches is not None and not patches.done:  # the selector used another encoder, or none
        embed_frames(patches, feed.rgb(), len(feed.span), call.recorder)
    return selection


def reference_frames(call: Call, feed: VideoFeed, rest: Tensor, keyframes: Tensor) -> Tensor:
    """Return ``[n]`` int64, the frame that each of ``rest`` is compared with; -1 for none.

    Raises:
        ValueError: The merger returned something else.
    """
    last = len(feed.span) - 1
    with part_errors(label_of("merger", call.merger)):
        references: Tensor = call.merger.reference_frames(rest, keyframes)
    fits = (
        isinstance(references, Tensor)
        and references.dtype == torch.int64
        and references.shape == rest.shape
        and bool(((references >= -1) & (references <= last)).all())
    )
    if not fits:
        raise ValueError(
            f"expected merger {call.merger_name!r} to return {len(rest)} reference frames, int64 "
            f"from 0 to {last} or -1 for none, got {references}"
        )
    return references


def encode_keyframes(
    call: Call,
    feed: VideoFeed,
    keyframes: Tensor,
    references: Tensor,
    patches: PatchKeeper | None,
    tokens: list[Tensor],
) -> Tensor | None:
    """Put each keyframe's ``[M, D]`` into ``tokens``; return the patches of the references.

    Args:
        references: ``[R]`` int64, ascending: the frames that others are compared with.

    Returns:
        ``[R, P, D]``, projected as merged frames are (Eq. 7 of ViLAMP compares patches in one
        space); None without references.
    """
    by_slice: dict[int, Tensor] = {}
    for slices, features in encode_slices(call, feed, call.model, keyframes, "keyframes"):
        if call.connector is None:
            _collect(by_slice, slices, features, references)
        rows = torch.cat([features.tokens, *features.extra], dim=-1)
        for index, row in zip(slices.tolist(), rows, strict=True):
            tokens[index] = row
    missing = [number for number in references.tolist() if number not in by_slice]
    numbers = torch.tensor(missing, dtype=torch.int64)
    for slices, features in encode_merged(call, feed, numbers, patches, "references"):
        _collect(by_slice, slices, features, references)
    return torch.stack([by_slice[n] for n in references.tolist()]) if by_slice else None


def encode_merged(
    call: Call, feed: VideoFeed, slices: Tensor, patches: PatchKeeper | None, what: str
) -> Iterator[tuple[Tensor, SliceFeatures]]:
    """Encode slices whose patches are merged or compared, as `encode_slices` does."""
    if patches is not None:
        return project_encoder_patches(call, patches, slices, what)
    return encode_slices(call, feed, call.merged_model, slices, what)


def merge_frames(
    call: Call,
    feed: VideoFeed,
    query: Query,
    rest: Tensor,
    references: References,
    patches: PatchKeeper | None,
    tokens: list[Tensor],
    heat: HeatKeeper,
) -> None:
    """Put the merged tokens ``[T, D]`` of every non-keyframe into ``tokens``.

    Args:
        rest: ``[n]`` int64, the non-keyframes, ascending.
        heat: Keeps the weights of a few frames.
    """
    encoded = (
        (slices, features.patches, *features.extra)
        for slices, features in encode_merged(call, feed, rest, patches, "other frames")
    )
    for slices, frames, *extra in whole_groups(encoded, call.merger.frames_together):
        with call.recorder.stage("merging") as stage:
            reference, has_reference = references.of(torch.searchsorted(rest, slices), frames)
            merged = merge_slices(call, frames, reference, has_reference, query, extra)
            heat.keep(slices, frames, reference, has_reference, query)
            for index, row in zip(slices.tolist(), merged, strict=True):
                tokens[index] = row
                stage.bytes += row.nbytes


def _collect(
    by_slice: dict[int, Tensor], slices: Tensor, features: SliceFeatures, references: Tensor
) -> None:
    """Put the patches ``[P, D]`` of the slices that are references into ``by_slice``."""
    rows = torch.isin(slices, references).nonzero().flatten()
    # Chosen by their numbers: a view would keep the whole chunk alive, a mask would wait for a GPU.
    kept = features.patches[rows.to(features.patches.device)]
    by_slice.update(zip(slices[rows].tolist(), kept, strict=True))
