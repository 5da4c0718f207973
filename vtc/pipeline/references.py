"""The frames that merged frames are compared with: a keyframe, or the frame before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.part import part_errors
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.pipeline.call import Call


@dataclass
class References:
    """The frames that non-keyframes are compared with.

    Attributes:
        numbers: ``[n]`` int64, the reference of each non-keyframe; -1 for none, or for a frame
            whose reference is the frame before it in the stream.
        distinct: ``[R]`` int64, the distinct numbers among them, ascending.
        passing: ``[p]`` int64, frames that are encoded only as the reference of the next frame.
        patches: ``[R, P, D]``, the patches of ``distinct``; None if there are none.
    """

    numbers: Tensor
    distinct: Tensor
    passing: Tensor
    patches: Tensor | None = None

    def of(self, places: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reference patches of some non-keyframes, and a mask of those with a reference.

        Args:
            places: ``[c]`` int64, the non-keyframes as indices into ``numbers``.
            like: ``[c, P, D]``, the patches of these non-keyframes.

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


def no_references(rest: Tensor) -> References:
    """Return empty references, for frames that are not compared with others."""
    return References(torch.full_like(rest, -1), rest[:0], rest[:0])


def references_of(call: Call, rest: Tensor, keyframes: Tensor, is_keyframe: Tensor) -> References:
    """Return the frames that each of ``rest`` is compared with.

    Args:
        rest: ``[n]`` int64, the frames to merge, ascending.
        keyframes: ``[K]`` int64, the selector's keyframes.
        is_keyframe: ``[N]`` bool, the frames that keep all their tokens.

    Raises:
        ValueError: The merger returned something else than frames.
    """
    if not call.merger.uses_reference:
        return no_references(rest)
    if call.merger.uses_previous_frame:
        before = rest[rest > 0] - 1
        # Frames that keep all their tokens are encoded first, so their patches are available.
        numbers = torch.where((rest > 0) & is_keyframe[(rest - 1).clamp(min=0)], rest - 1, -1)
        streams = ~is_keyframe[before] & ~torch.isin(before, rest)
        return References(numbers, torch.unique(numbers[numbers >= 0]), before[streams])
    numbers = _reference_frames(call, rest, keyframes, len(is_keyframe) - 1)
    return References(numbers, torch.unique(numbers[numbers >= 0]), rest[:0])


def _reference_frames(call: Call, rest: Tensor, keyframes: Tensor, last: int) -> Tensor:
    """Return ``[n]`` int64, the frames that the merger names; -1 for none."""
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


def with_previous(chunks: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Add to each slice the patches of the slice before it, carried from chunk to chunk.

    Args:
        chunks: The numbers ``[c]``, ascending, the patches ``[c, P, D]``, and other tensors that
            run along the slices.

    Yields:
        The same, then the patches of the slice before ``[c, P, D]``, and ``[c]`` bool, whether
        that slice is in the stream; if not, its patches are arbitrary.
    """
    last: tuple[Tensor, Tensor] | None = None
    for slices, patches, *others in chunks:
        number, patch = (slices[:1] - 2, patches[:1]) if last is None else last
        before = torch.cat([patch, patches[:-1]])
        follows = torch.cat([number, slices[:-1]]) == slices - 1
        yield slices, patches, *others, before, follows
        last = slices[-1:], patches[-1:].clone()  # a view would keep the whole chunk alive
