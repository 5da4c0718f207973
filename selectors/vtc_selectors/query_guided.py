"""Query-guided selection: the frames most relevant to the query, similar or not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_whole
from vtc_selectors._cosine import most_relevant_first, piece_memory, query_relevance


class QueryGuided(FrameSelector):
    """Takes the K frames most relevant to the query.

    The relevance is Eq. 2 of ViLAMP, the cosine of frame and query; ties go to the earlier frame.
    This is the ablation of ViLAMP without temporal distinctiveness, so neighbouring frames of one
    scene often fill the budget. Time O(N d + N log N); memory O(N) on top of the embeddings.
    """

    source = "ViLAMP, ICML 2025, Eq. 2"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``query_guided``.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video keeps all frames.
        """

        keyframes: int = 32

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 2.5 * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return piece_memory(sizes.d) + 3 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance("query_guided", embeddings, query)
        best = most_relevant_first(relevance)[: self.config.keyframes]
        return Selection(best.sort().values, relevance)
