"""Spatial pooling: average a frame's patches over a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass

from vtc.interfaces.part import require_whole
from vtc_mergers._pooling import GridPool


class SpatialPool(GridPool):
    """Averages the patches of a frame over a coarse grid, row by row.

    Adaptive average pooling over space as in PLLaVA (Xu et al., 2024), which pools over time too,
    and in the fast pathway of SlowFast-LLaVA (Xu et al., 2024), which keeps 4 x 4 tokens of every
    frame. A merger does not get the grid, so patches are taken in row order, as a square grid or
    one of ``rows`` rows. A number of patches that does not fit the grid raises an error.

    T M D multiplications per frame; memory O(T M + n T D) on top of the input, plus a float32 copy
    of one frame if the input is in half precision.
    """

    source = "PLLaVA, arXiv 2024; SlowFast-LLaVA, arXiv 2024"
    name = "spatial_pool"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``spatial_pool``.

        Attributes:
            side: t, at least 1: a frame gets t x t tokens; a smaller grid keeps its rows or
                columns.
            rows: h, at least 1: the number of rows of the grid of patches. None: the grid is
                square. Required for families whose grid follows the shape of the video, such as
                Qwen-VL.
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

    def cells(self, height: int, width: int) -> tuple[int, int]:
        return min(self.config.side, height), min(self.config.side, width)
