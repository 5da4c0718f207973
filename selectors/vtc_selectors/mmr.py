"""Maximal marginal relevance: frames relevant to the query, with a penalty on redundancy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_number, require_whole
from vtc_selectors._cosine import cosines, piece_memory, query_relevance, unit


class MMR(FrameSelector):
    """Takes keyframes one by one, each relevant to the query and unlike the earlier ones.

    Maximal marginal relevance (Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking
    for Reordering Documents and Producing Summaries", SIGIR 1998): the next keyframe has the
    largest lambda * relevance - (1 - lambda) * redundancy. The relevance of a frame is its cosine
    with the query, its redundancy the largest cosine with a keyframe. The first keyframe is the
    most relevant frame, for lambda = 0 too. Ties go to the earlier frame.

    Unlike ``dks`` it always takes min(K, N) frames. The paper recommends no lambda; our default of
    0.5 gives both terms equal weight.

    Time O(N K d); memory O(N) on top of the embeddings, no N x N matrix. The loop never waits for
    the GPU.
    """

    source = "Maximal Marginal Relevance, SIGIR 1998"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``mmr``.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video keeps all frames.
            relevance_weight: lambda in [0, 1]. 1 ranks by relevance only, like ``query_guided``; 0
                by redundancy only.
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
        return piece_memory(sizes.d) + 7 * sizes.N

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
        """Return the keyframes ``[K]`` in the order in which they are taken."""
        weight = self.config.relevance_weight
        exact = unit(embeddings[:0]).dtype
        reward = weight * relevance.to(exact)
        taken = [relevance.argmax(keepdim=True)]  # argmax returns the first of equal values
        free = torch.ones_like(relevance, dtype=torch.bool).index_fill(0, taken[0], False)
        redundancy = torch.full_like(relevance, -torch.inf)
        while len(taken) < self.config.keyframes:
            latest = embeddings.index_select(0, taken[-1])[0]
            redundancy = torch.maximum(redundancy, cosines(embeddings, latest))
            marginal = reward - (1 - weight) * redundancy.to(exact)
            taken.append(marginal.masked_fill(~free, -torch.inf).argmax(keepdim=True))
            free = free.index_fill(0, taken[-1], False)
        return torch.cat(taken)
