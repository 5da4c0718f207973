"""Spatial pooling: a frame becomes a smaller picture of itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from vtc.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype, weighted_sum
from vtc_mergers._checks import check_patches, require_count


class SpatialPool(TokenMerger):
    """Averages the patches of a frame over a coarse grid, row by row.

    Adaptive average pooling over space as in PLLaVA (Xu et al., 2024), which pools over time as
    well, and as on the fast path of SlowFast-LLaVA (Xu et al., 2024), which keeps 4 x 4 tokens of
    every frame. Patches are taken as a square grid in row order, since a merger is not told the
    grid: families with other grids, such as Qwen-VL, and frames with a class token are refused.

    T M D multiplications a frame; memory O(T M + M D) beside the input.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``spatial_pool``.

        Attributes:
            side: t, at least 1: a frame becomes t x t tokens; a smaller grid stays as it is.
        """

        side: int = 2

        def __post_init__(self) -> None:
            require_count("side", self.side)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.side**2

    @property
    def query_source(self) -> None:
        """None: there is no query."""
        return None

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """Pool each frame to ``side`` x ``side`` tokens in row order.

        Args:
            patches: ``[n, M, D]``, the patch tokens of n non-keyframes; M is a square.
            reference: not used.
            has_reference: not used.
            query: not used.

        Returns:
            ``[n, T, D]`` in the dtype of the patches, T = min(side^2, M); summed in at least
            float32.

        Raises:
            ValueError: the patches are not ``[n, M, D]`` with a square M >= 1.
            TypeError: the patches are not floating point.
        """
        weights = self._weights(patches)
        tokens = [weighted_sum(weights, frame) for frame in patches]
        empty = (0, len(weights), patches.shape[2])
        return torch.stack(tokens) if tokens else patches.new_empty(empty)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """The mean over each cell: ``[n, T, M]`` in at least float32; arguments as before."""
        return self._weights(patches).repeat(len(patches), 1, 1)

    def _weights(self, patches: Tensor) -> Tensor:
        """``[T, M]``, the same for all frames."""
        check_patches("spatial_pool", patches)
        height, width = _square_grid(patches.shape[1])
        rows, columns = (_bins(length, self.config.side) for length in (height, width))
        return torch.kron(rows, columns).to(patches.device, exact_dtype(patches))


def _square_grid(patches: int) -> tuple[int, int]:
    """The grid (h, w) of M patches; the one place to change once mergers are told the grid."""
    side = isqrt(patches)
    if side * side != patches:
        raise ValueError(
            f"merger 'spatial_pool': {patches} patches are no square grid; allowed is M = s * s "
            "in row order: choose a merger that needs no grid, such as 'tome' or 'mean_pool'"
        )
    return side, side


def _bins(length: int, count: int) -> Tensor:
    """Means over ``count`` equal parts of a line: ``[min(count, length), length]`` float64.

    Part i goes from floor(i length / count) to ceil((i + 1) length / count): parts that do not
    end between two patches share one.
    """
    count = min(count, length)
    bins = torch.zeros(count, length, dtype=torch.float64, device="cpu")
    for i in range(count):
        start, end = i * length // count, -(-(i + 1) * length // count)
        bins[i, start:end] = 1 / (end - start)
    return bins
