"""Spatial pooling: average a frame's patches over a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._checks import check_patches
from vtc_mergers._pooling import grid_of, grid_weights, pool


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
        return pool(self._weights(patches), patches)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        return self._weights(patches).repeat(len(patches), 1, 1)

    def _weights(self, patches: Tensor) -> Tensor:
        """Return the weights ``[T, M]`` of all frames."""
        check_patches("spatial_pool", patches)
        height, width = grid_of("spatial_pool", patches.shape[1], self.config.rows)
        side = self.config.side
        return grid_weights(patches, (height, width), (min(side, height), min(side, width)))
