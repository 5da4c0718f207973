"""Adaptive keyframe sampling: take a segment's best frames if they stand out, else split it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_number, require_whole
from vtc_selectors._cosine import min_max, most_relevant_first, piece_memory, query_relevance

_ROUNDING = 1e-6
"""Means this close to the threshold count as equal to it: the rounding of float32 scores."""


class AKS(FrameSelector):
    """Takes the most relevant frames, spread over the video unless a few of them stand out.

    Adaptive Keyframe Sampling (Tang et al., "Adaptive Keyframe Sampling for Long Video
    Understanding", CVPR 2025). The relevance of a frame is its cosine with the query, scaled to
    [0, 1] over the video. The algorithm starts with the whole video as one segment and K as its
    budget k. If the mean of the segment's k most relevant frames is at least ``score_threshold``
    above the mean of all its frames, these k frames are keyframes. Otherwise the segment is split
    into halves, each with half of the budget. After ``max_depth`` splits the most relevant frames
    are keyframes in any case.

    If the number of frames or the budget is odd, the first half gets one more, so there are always
    min(K, N) keyframes. A budget of one is not split. Ties go to the earlier frame. The paper
    scores frames with BLIP or CLIP; here the frame encoder does.

    Time O(N d + N log N * max_depth); memory O(N) on top of the embeddings.
    """

    source = "Adaptive Keyframe Sampling, CVPR 2025"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``aks``; the defaults of the last two are those of the authors' code.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video keeps all frames.
            score_threshold: s_thr in [0, 1], the required lead of the best frames over the mean. 0
                never splits, which is ``query_guided``; 1 always does.
            max_depth: L, the maximum number of splits, at least 0. 5 makes up to 32 segments.
        """

        keyframes: int = 32
        score_threshold: float = 0.8
        max_depth: int = 5

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("score_threshold", self.score_threshold, 0, 1)
            require_whole("max_depth", self.max_depth, 0)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 2.5 * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return piece_memory(sizes.d) + 3 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance("aks", embeddings, query)
        scores = min_max(relevance.cpu())  # many tiny steps, which are slow on a GPU
        budget = min(self.config.keyframes, len(scores))
        keyframes = torch.cat(self._judge(scores, 0, budget, self.config.max_depth))
        return Selection(keyframes.sort().values.to(embeddings.device), relevance)

    def _judge(self, scores: Tensor, start: int, budget: int, depth: int) -> list[Tensor]:
        """Return ``budget`` frames of a segment of ``scores`` ``[n]`` that begins at ``start``."""
        if budget == 0:
            return []
        best = most_relevant_first(scores)[:budget]
        lead = scores[best].mean() - scores.mean()
        if budget == 1 or depth == 0 or lead >= self.config.score_threshold - _ROUNDING:
            return [best + start]
        middle = _larger_half(len(scores))
        first = _larger_half(budget)
        return [
            *self._judge(scores[:middle], start, first, depth - 1),
            *self._judge(scores[middle:], start + middle, budget - first, depth - 1),
        ]


def _larger_half(number: int) -> int:
    return (number + 1) // 2
