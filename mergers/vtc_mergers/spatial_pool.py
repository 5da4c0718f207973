"""Spatial pooling: average a frame's patches over a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype, weighted_sum
from vtc_mergers._checks import check_patches


class SpatialPool(TokenMerger):
    """Averages the patches of a frame over a coarse grid, row by row.

    Adaptive average pooling over space as in PLLaVA (Xu et al., 2024), which pools over time too,
    and in the fast pathway of SlowFast-LLaVA (Xu et al., 2024), which keeps 4 x 4 tokens of every
    frame. Patches are in row order, as a square grid or one of ``rows`` rows, because a merger
    does not get the grid. A number of patches that does not fit the grid is refused.

    T M D multiplications per frame; memory O(T M + n T D) beside the input, plus a float32 copy of
    a frame in half precision.
    """

    source = "PLLaVA, arXiv 2024; SlowFast-LLaVA, arXiv 2024"
    query_source = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``spatial_pool``.

        Attributes:
            side: t, at least 1: a frame has t x t tokens; a grid with fewer rows or columns keeps
                them.
            rows: h, at least 1: the number of rows of the grid of patches. None: the grid is
                square. Families whose grid has the shape of the video, such as Qwen-VL, need it.
        """

        side: int = 2
        rows: int | None = None

        def __post_init__(self) -> None:
            require_whole("side", self.side)
            if self.rows is not None:
                require_whole("rows", self.rows)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.side**2

    def macs(self, sizes: Sizes) -> float:
        return self.tokens_per_frame * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return self.tokens_per_frame * sizes.M + sizes.n * self.tokens_per_frame * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        weights = self._weights(patches)
        tokens = [weighted_sum(weights, frame) for frame in patches]
        empty = (0, len(weights), patches.shape[2])
        return torch.stack(tokens) if tokens else patches.new_empty(empty)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        return self._weights(patches).repeat(len(patches), 1, 1)

    def _weights(self, patches: Tensor) -> Tensor:
        """Return the weights ``[T, M]`` of all frames."""
        check_patches("spatial_pool", patches)
        height, width = _grid(patches.shape[1], self.config.rows)
        rows, columns = (_bins(length, self.config.side) for length in (height, width))
        return torch.kron(rows, columns).to(patches.device, exact_dtype(patches))


def _grid(patches: int, rows: int | None) -> tuple[int, int]:
    """Return the grid (h, w) of M patches."""
    height = isqrt(patches) if rows is None else rows
    if rows is None and height * height != patches:
        raise ValueError(
            f"merger 'spatial_pool': {patches} patches are not a square grid; set rows, the number "
            f"of rows of the grid, to one of {_divisors(patches)}, or choose a merger that needs "
            "no grid, such as 'tome' or 'mean_pool'"
        )
    if patches % height:
        raise ValueError(
            f"merger 'spatial_pool': {patches} patches are not a grid of rows={rows}; set rows, "
            f"the number of rows of the grid, to one of {_divisors(patches)}"
        )
    return height, patches // height


def _divisors(number: int) -> str:
    return ", ".join(str(rows) for rows in range(1, number + 1) if number % rows == 0)


def _bins(length: int, count: int) -> Tensor:
    """Return the means over ``count`` equal parts of a line: ``[min(count, length), length]``.

    float64. Part i is from floor(i length / count) to ceil((i + 1) length / count), so two parts
    may share a patch.
    """
    count = min(count, length)
    bins = torch.zeros(count, length, dtype=torch.float64, device="cpu")
    for i in range(count):
        start, end = i * length // count, -(-(i + 1) * length // count)
        bins[i, start:end] = 1 / (end - start)
    return bins
