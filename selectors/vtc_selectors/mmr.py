"""Maximal marginal relevance: relevant to the query, with a price on repeating oneself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_number, require_whole
from vtc_selectors._cosine import cosines, query_relevance, unit


class MMR(FrameSelector):
    """Takes frame by frame the one that is most relevant and least like the frames taken.

    Maximal marginal relevance (Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking
    for Reordering Documents and Producing Summaries", SIGIR 1998): the next frame is that of the
    largest lambda * relevance - (1 - lambda) * redundancy, where the relevance of a frame is its
    cosine with the query and its redundancy the largest cosine with a frame already taken. Nothing
    is redundant at first, so the most relevant frame is taken first, for a lambda of 0 as well.
    Ties go to the earlier frame.

    Unlike ``dks`` it always takes min(K, N) frames. The paper varies lambda with the user's aim
    and names no value that is best; the default of 0.5 is ours and gives both terms equal weight.

    Time O(N K d); memory O(N) beside the embeddings, no N x N matrix. The loop never waits for
    the GPU.
    """

    source = "Maximal Marginal Relevance, SIGIR 1998"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``mmr``.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video gets all its frames.
            relevance_weight: lambda in [0, 1]. 1 ranks by relevance alone, as ``query_guided``
                does; 0 by difference alone.
        """

        keyframes: int = 32
        relevance_weight: float = 0.5

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("relevance_weight", self.relevance_weight, 0, 1)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 2.5 * self.config.keyframes * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return 512 * sizes.d + 7 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance("mmr", embeddings, query)
        if self.config.keyframes >= len(embeddings):
            return Selection(torch.arange(len(embeddings), device=embeddings.device), relevance)
        keyframes = self._take(embeddings, relevance)
        return Selection(keyframes.sort().values, relevance)

    def _take(self, embeddings: Tensor, relevance: Tensor) -> Tensor:
        """The K frames ``[K]`` in the order in which they are taken."""
        weight = self.config.relevance_weight
        exact = unit(embeddings[:0]).dtype
        reward = weight * relevance.to(exact)
        taken = [relevance.argmax(keepdim=True)]  # the first of equals, as argmax promises
        free = torch.ones_like(relevance, dtype=torch.bool).index_fill(0, taken[0], False)
        redundancy = torch.full_like(relevance, -torch.inf)
        while len(taken) < self.config.keyframes:
            latest = embeddings.index_select(0, taken[-1])[0]
            redundancy = torch.maximum(redundancy, cosines(embeddings, latest))
            marginal = reward - (1 - weight) * redundancy.to(exact)
            taken.append(marginal.masked_fill(~free, -torch.inf).argmax(keepdim=True))
            free = free.index_fill(0, taken[-1], False)
        return torch.cat(taken)
