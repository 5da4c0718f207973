"""Random selection: keyframes drawn uniformly, as a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_whole
from vtc_selectors._checks import check_embeddings


class RandomFrames(FrameSelector):
    """Draws K frames at random, all with the same probability.

    A control: a selector that does no better than this makes no use of the video. The frames depend
    only on ``seed`` and the number of frames. Needs no query and no frame encoder. Time and memory
    O(N).
    """

    source = "control"
    uses_query: ClassVar[bool] = False
    uses_embeddings: ClassVar[bool] = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``random``.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video keeps all frames.
            seed: The seed of the draw, at least 0.
        """

        keyframes: int = 32
        seed: int = 0

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_whole("seed", self.seed, 0)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 0

    def extra_memory(self, sizes: Sizes) -> float:
        return sizes.N

    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        check_embeddings("random", embeddings)
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(len(embeddings), generator=generator)
        frames = order[: self.config.keyframes].sort().values
        return Selection(frames.to(embeddings.device), relevance=None)
