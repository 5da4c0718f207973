"""Merge the frames of a video to the numbers of tokens that a budget set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.token_budget import SHARED
from vtc.pipeline.budget import in_groups
from vtc.pipeline.merge import merge_slices

if TYPE_CHECKING:
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.call import Call
    from vtc.pipeline.query import Query


Keep = Callable[[int, Tensor, Tensor | None], None]


class BudgetMerging:
    """Merges the frames of one video to the numbers of tokens of a budget, chunk by chunk.

    A frame with T tokens is cut into T parts, which are merged one by one. Frames that share a
    token are merged as one: the mass-weighted mean of their tokens is the softmax of Eq. 10 of
    ViLAMP over all their patches, and needs no more memory than one frame.

    Args:
        keep: Called with the number of a slice, its tokens ``[T, D]``, and the placeholders
            ``[T]`` in the middles of their parts, or None.
    """

    def __init__(self, call: Call, span: VideoSpan, tokens: Tensor, keep: Keep) -> None:
        self._call, self._span, self._tokens, self._keep = call, span, tokens, keep
        self._in_group = in_groups(tokens)
        self._first = 0
        self._token = self._mass = torch.empty(0)

    def merge(
        self,
        slices: Tensor,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Query,
        extra: Sequence[Tensor],
    ) -> int:
        """Merge the next slices ``[n]`` int64; the other arguments are those of `merge_slices`.

        Returns:
            The bytes of the tokens.
        """
        rows: dict[int, Tensor] = {}
        masses: dict[int, Tensor] = {}
        middles: dict[int, Tensor] = {}
        tokens = self._tokens[slices]
        for count in torch.unique(tokens.clamp(min=1)).tolist():
            at = (tokens.clamp(min=1) == count).nonzero().flatten()
            here = at.to(patches.device)
            frames = (patches[here], reference[here], has_reference[here])
            layers = [layer[here] for layer in extra]
            parts = []
            grid = grid_of(self._span, patches.shape[1])
            split, middle = cells(grid, patches.shape[1], count)
            if count > 1 and patches.shape[1] == self._span.slots.shape[1]:
                middles.update(dict.fromkeys(slices[at].tolist(), middle))
            for part in split:
                part = part.to(patches.device)
                merged = merge_slices(
                    self._call,
                    frames[0][:, part],
                    frames[1][:, part],
                    frames[2],
                    query,
                    [layer[:, part] for layer in layers],
                )
                parts.append(merged)
            tokens_of = map(torch.cat, zip(*parts, strict=True))
            rows.update(zip(slices[at].tolist(), tokens_of, strict=True))
            if count == 1 and bool(self._in_group[slices[at]].any()):
                mass = self._call.merger.log_mass(*frames, query.for_merger(patches))
                masses.update(zip(slices[at].tolist(), mass, strict=True))
        size = 0
        for number in slices.tolist():
            size += self._add(number, rows[number], masses.get(number), middles.get(number))
        return size

    def _add(self, number: int, token: Tensor, mass: Tensor | None, middles: Tensor | None) -> int:
        if mass is None or int(self._tokens[number]) != SHARED:
            if mass is not None:
                exact = torch.promote_types(token.dtype, torch.float32)
                self._first, self._token, self._mass = number, token.to(exact), mass
            self._keep(number, token, middles)
            return token.nbytes
        total = torch.logaddexp(self._mass, mass)
        before, now = (self._mass - total).exp(), (mass - total).exp()
        self._token, self._mass = before * self._token + now * token.to(self._token), total
        self._keep(self._first, self._token.to(token.dtype), None)
        return 0


def cells(grid: tuple[int, int] | None, patches: int, count: int) -> tuple[list[Tensor], Tensor]:
    """Cut the patches of a frame into ``count`` parts: cells of its grid, as square as possible.

    If the number of cells does not fit the grid (height, width), or there is no grid, the parts are
    runs of consecutive patches.

    Returns:
        The indices of each part, and ``[count]`` int64, the patch in the middle of each.
    """
    places = torch.arange(patches)
    if count == 1:
        return [places], places[:0]
    if grid is not None:
        height, width = grid
        fitting = [
            (rows, count // rows)
            for rows in range(1, height + 1)
            if count % rows == 0 and count // rows <= width
        ]
        if fitting:
            rows, columns = min(
                fitting, key=lambda cut: abs(math.log(height * cut[1] / (width * cut[0])))
            )
            bands = torch.tensor_split(places.view(height, width), rows, dim=0)
            split = (torch.tensor_split(band, columns, dim=1) for band in bands)
            parts = list(itertools.chain.from_iterable(split))
            middles = [part[part.shape[0] // 2, part.shape[1] // 2] for part in parts]
            return [part.flatten() for part in parts], torch.stack(middles)
    runs = list(torch.tensor_split(places, count))
    return runs, torch.stack([run[len(run) // 2] for run in runs])


def grid_of(span: VideoSpan, patches: int) -> tuple[int, int] | None:
    """Return the rows and columns of a frame's patches; None if unknown."""
    if span.grid is not None and math.prod(span.grid) == patches:
        return span.grid
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None
