"""Downsampling: average pooling of a frame to a number of tokens, as a control."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from torch import Tensor

from vtc.interfaces.part import require_whole
from vtc_mergers._pooling import GridPool, pool


class Downsample(GridPool):
    """Averages the patches of a frame over a grid of at most T cells.

    A control: plain average pooling to the same number of tokens beats many published compressors
    (VTC-Bench, ACL 2026). It is ``spatial_pool`` for any T: it takes the largest grid of at most T
    cells; of several, the one closest in shape to the grid of patches.
    """

    source = "control; VTC-Bench, ACL 2026"
    name = "downsample"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``downsample``.

        Attributes:
            tokens: T, the maximum number of tokens of a frame, at least 1.
            rows: The number of rows of the grid of patches, at least 1. None: the grid is square.
                Required for families whose grid follows the shape of the video, such as Qwen-VL.
        """

        tokens: int = 16
        rows: int | None = None

        def __post_init__(self) -> None:
            require_whole("tokens", self.tokens)
            if self.rows is not None:
                require_whole("rows", self.rows)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor]:
        tokens = pool(self._weights(patches), patches)
        count = min(self.config.tokens, patches.shape[1])
        return tokens if tokens.shape[1] == count else list(tokens)

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the largest grid of at most T cells."""
        tokens = self.config.tokens
        grids = [(rows, min(tokens // rows, width)) for rows in range(1, min(tokens, height) + 1)]
        return max(grids, key=lambda grid: (grid[0] * grid[1], _nearness(grid, height / width)))


def _nearness(grid: tuple[int, int], shape: float) -> float:
    """Return how close a grid's shape is to a height-to-width ratio: at most 0, 0 if equal."""
    return -abs(log(grid[0] / grid[1] / shape))
