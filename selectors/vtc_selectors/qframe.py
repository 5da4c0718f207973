"""Q-Frame: frames drawn at random with probabilities that depend on their relevance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import FLOAT32_MAX, FLOAT32_TINY, require_number, require_whole
from vtc_selectors._cosine import most_relevant_first, piece_memory, query_relevance


class QFrame(FrameSelector):
    """Draws frames without replacement, with a higher probability for relevant frames.

    The frame selection of Q-Frame (Zhang et al., "Q-Frame: Query-aware Frame Selection and
    Multi-Resolution Adaptation for Video-LLMs", ICCV 2025): Gumbel noise is added to the cosine of
    each frame and the query divided by ``temperature``, and the K largest sums are the keyframes.
    This draws K frames one after another, each with the probability softmax(cosine / temperature)
    among the remaining frames. The noise depends only on ``seed`` and the number of frames, so
    calls are reproducible.

    This follows the paper's text, not its code. The cosines of one video are close to each other,
    so at 0.8 the draw is nearly uniform; we could not establish whether the authors scale the
    cosines first. The paper also gives lower-ranked frames a lower resolution, which a selector
    cannot do.

    Time O(N d + N log N); memory O(N) on top of the embeddings.
    """

    source = "Q-Frame, ICCV 2025"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``qframe``; the default temperature is the paper's.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video keeps all frames.
            temperature: tau, above 0. Small: the most relevant frames, as ``query_guided``; large:
                random frames, as ``random``.
            seed: The seed of the noise, at least 0.
        """

        keyframes: int = 32
        temperature: float = 0.8
        seed: int = 0

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("temperature", self.temperature, FLOAT32_TINY, FLOAT32_MAX)
            require_whole("seed", self.seed, 0)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 2.5 * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return piece_memory(sizes.d) + 5 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance("qframe", embeddings, query)
        generator = torch.Generator().manual_seed(self.config.seed)
        uniform = torch.rand(len(relevance), dtype=torch.float64, generator=generator)
        noise = -(-uniform.clamp(min=torch.finfo(torch.float64).tiny).log()).log()
        scores = relevance.cpu().double() / self.config.temperature + noise
        best = most_relevant_first(scores)[: self.config.keyframes]
        return Selection(best.sort().values.to(embeddings.device), relevance)
