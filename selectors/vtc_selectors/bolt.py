"""BOLT: inverse transform sampling of frames by their relevance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_number, require_whole
from vtc_selectors._cosine import min_max, piece_memory, query_relevance


class Bolt(FrameSelector):
    """Samples frames in proportion to their relevance, at evenly spaced quantiles.

    Inverse transform sampling of BOLT (Liu et al., "BOLT: Boost Large Vision-Language Model Without
    Training for Long-form Video Understanding", CVPR 2025). The cosines of frames and query are
    scaled to [0, 1] over the video, raised to ``power`` and divided by their sum. Keyframe k of K
    is the first frame whose cumulative share reaches u_k, with u_1 ... u_K evenly spaced from 1/K
    to 1 - 1/K. The samples cover the whole video, with most of them in its relevant parts.

    The authors' code may return a frame several times; here duplicates are removed, so there may be
    fewer than K keyframes. A video of at most K frames keeps all of them. If all frames are equally
    relevant, all shares are equal. For K = 1 the range is empty; we use u_1 = 1/2.

    Time O(N d); memory O(N) on top of the embeddings.
    """

    source = "BOLT, CVPR 2025"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``bolt``; the default power is the authors'.

        Attributes:
            keyframes: K, the maximum number of keyframes, at least 1.
            power: The exponent of the scaled relevance, in [0, 100]. 0 ignores the relevance; the
                authors use 2.5 for LongVideoBench.
        """

        keyframes: int = 32
        power: float = 3.0

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("power", self.power, 0, 100)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 2.5 * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return piece_memory(sizes.d) + 4 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance("bolt", embeddings, query)
        count = self.config.keyframes
        if count >= len(embeddings):
            return Selection(torch.arange(len(embeddings), device=embeddings.device), relevance)
        scores = min_max(relevance.cpu())  # float64, which not all devices have
        shares = scores.pow(self.config.power) if scores.any() else torch.ones_like(scores)
        cumulative = shares.cumsum(0) / shares.sum()
        points = torch.linspace(1 / count, 1 - 1 / count, count, dtype=scores.dtype)
        if count == 1:
            points[:] = 0.5
        frames = torch.searchsorted(cumulative, points).clamp(max=len(scores) - 1)
        return Selection(torch.unique(frames).to(embeddings.device), relevance)
