"""Differential keyframe selection that also looks at what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_number, require_whole
from vtc_selectors._cosine import pieces, rows_of_piece, unit, unit_rows
from vtc_selectors.dks import DKS


class DKSNext(FrameSelector):
    """Takes the keyframes of ``dks`` and, after each, the first frame that looks different.

    A question such as "what happens after the goal?" describes one scene and asks about the next,
    so no frame of the next scene is relevant to it. Half of the keyframes, rounded up, are those of
    ``dks``. Each of these, the most relevant first, adds the first later frame whose cosine with it
    is below ``similarity_threshold``, until there are K. There are fewer than K if some of these
    frames are keyframes already, or if none follows. This method is the project's own.

    Time O(N log N + N K d); memory as ``dks``.
    """

    source = "vtc, after ViLAMP, ICML 2025, Algorithm 1"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dks_next``.

        Attributes:
            keyframes: K, the maximum number of keyframes, at least 1.
            similarity_threshold: tau in [-1, 1]: as in ``dks``, and the cosine below which a frame
                belongs to the next scene.
        """

        keyframes: int = 32
        similarity_threshold: float = 0.85

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("similarity_threshold", self.similarity_threshold, -1, 1)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        half, threshold = (self.config.keyframes + 1) // 2, self.config.similarity_threshold
        self._dks = DKS(DKS.Config(keyframes=half, similarity_threshold=threshold))
        self._dks.label = "dks_next"

    def macs(self, sizes: Sizes) -> float:
        return self._dks.macs(sizes) + ((self.config.keyframes + 1) // 2 + 1) * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return self._dks.extra_memory(sizes)

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        selection = self._dks.select(embeddings, query)
        keyframes, relevance = selection.keyframes, cast(Tensor, selection.relevance)
        ranked = keyframes[relevance[keyframes].argsort(descending=True, stable=True)]
        following = self._following(embeddings, ranked)
        taken = torch.zeros(len(embeddings) + 1, dtype=torch.bool, device=embeddings.device)
        taken[keyframes] = taken[-1] = True  # the last one stands for no frame
        place = torch.arange(len(following), device=embeddings.device)
        earlier = place[:, None] > place  # torch.tril would start threads
        repeated = ((following[:, None] == following) & earlier).any(1)
        new = ~taken[following] & ~repeated
        fits = new.cumsum(0) <= self.config.keyframes - len(keyframes)
        taken[torch.where(new & fits, following, len(embeddings))] = True
        return Selection(taken[:-1].nonzero()[:, 0], relevance)

    def _following(self, embeddings: Tensor, keyframes: Tensor) -> Tensor:
        """Return the first later frame unlike each keyframe, ``[k]``; N if there is none."""
        count = len(embeddings)
        vectors = unit_rows(embeddings, keyframes)
        found = torch.full_like(keyframes, count)
        numbers = torch.arange(count, device=embeddings.device)
        parts = torch.split(numbers, rows_of_piece(embeddings))
        for piece, frames in zip(pieces(embeddings), parts, strict=True):
            rows = unit(piece)
            for place, (vector, keyframe) in enumerate(zip(vectors, keyframes, strict=True)):
                later = self._dks.unlike(rows, vector) & (frames > keyframe)
                first = torch.where(later, frames, count).amin()
                found[place] = torch.minimum(found[place], first)
        return found
