"""Uniform selection: evenly spaced keyframes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_whole
from vtc_selectors._checks import check_embeddings
from vtc_selectors._spread import middles_of_parts


class Uniform(FrameSelector):
    """Takes the middle frames of K equal parts of the video.

    The usual baseline: keyframe k of K is frame floor((k + 1/2) N / K). Needs no query and no
    frame encoder. Time and memory O(K).
    """

    source = "baseline"
    uses_query: ClassVar[bool] = False
    uses_embeddings: ClassVar[bool] = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``uniform``.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video keeps all frames.
        """

        keyframes: int = 32

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 0

    def extra_memory(self, sizes: Sizes) -> float:
        return 0

    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        check_embeddings("uniform", embeddings)
        middles = middles_of_parts(len(embeddings), self.config.keyframes)
        return Selection(torch.tensor(middles, device=embeddings.device), relevance=None)
