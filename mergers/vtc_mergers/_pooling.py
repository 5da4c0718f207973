"""Average pooling over a coarse grid of patches."""

from __future__ import annotations

from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype, weighted_sum
from vtc_mergers._checks import check_patches


def pool(weights: Tensor, patches: Tensor) -> Tensor:
    """Return the tokens ``[n, T, D]`` of patches ``[n, M, D]`` with weights ``[T, M]``."""
    tokens = [weighted_sum(weights, frame) for frame in patches]
    empty = (0, len(weights), patches.shape[2])
    return torch.stack(tokens) if tokens else patches.new_empty(empty)


def grid_weights(patches: Tensor, grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Return the weights ``[T, M]`` of the means over ``cells`` of a ``grid``, (rows, columns)."""
    rows, columns = map(_bins, grid, cells)
    return torch.kron(rows, columns).to(patches.device, exact_dtype(patches))


def grid_of(merger: str, patches: int, rows: int | None) -> tuple[int, int]:
    """Return the grid (rows, columns) of M patches."""
    height = isqrt(patches) if rows is None else rows
    if rows is None and height * height != patches:
        raise ValueError(
            f"merger '{merger}': {patches} patches are not a square grid; set rows, the number "
            f"of rows of the grid, to one of {_divisors(patches)}, or choose a merger that needs "
            "no grid, such as 'tome' or 'mean_pool'"
        )
    if patches % height:
        raise ValueError(
            f"merger '{merger}': {patches} patches are not a grid of rows={rows}; set rows, "
            f"the number of rows of the grid, to one of {_divisors(patches)}"
        )
    return height, patches // height


def _divisors(number: int) -> str:
    return ", ".join(str(rows) for rows in range(1, number + 1) if number % rows == 0)


def _bins(length: int, count: int) -> Tensor:
    """Return the means over ``count`` equal parts of a line: ``[count, length]`` float64.

    Part i is from floor(i length / count) to ceil((i + 1) length / count), so two parts
    may share a patch.
    """
    bins = torch.zeros(count, length, dtype=torch.float64, device="cpu")
    for i in range(count):
        start, end = i * length // count, -(-(i + 1) * length // count)
        bins[i, start:end] = 1 / (end - start)
    return bins


class GridPool(TokenMerger):
    """Averages the patches of a frame over a grid of cells; subclasses define name and grid."""

    name: ClassVar[str]
    query_source = None
    uses_reference = False
    config: Any
    """Has ``rows``, the number of rows of the grid of patches; None for a square grid."""

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of cells for a grid of patches."""
        raise NotImplementedError

    def macs(self, sizes: Sizes) -> float:
        return self.tokens_per_frame * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return self.tokens_per_frame * sizes.M + sizes.n * self.tokens_per_frame * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor]:
        return pool(self._weights(patches), patches)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        return self._weights(patches).repeat(len(patches), 1, 1)

    def position_weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        return self.weights(patches, reference, has_reference, query)

    def _weights(self, patches: Tensor) -> Tensor:
        """Return the weights ``[T, M]`` of all frames."""
        check_patches(self.name, patches)
        grid = grid_of(self.name, patches.shape[1], self.config.rows)
        return grid_weights(patches, grid, self.cells(*grid))
