"""MDP3: a determinantal point process over segments, with dynamic programming between them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import FLOAT32_MAX, FLOAT32_TINY, require, require_number, require_whole
from vtc_selectors._cosine import ONE_THREAD, piece_memory, query_relevance, unit, unit_rows

_BANDWIDTHS = tuple(2.0**n for n in range(-3, 2))
_MIN_VARIANCE = 1e-10
"""Lower bound on the conditional variance, reached by a copy of a frame; keeps its log finite."""
_MAX_GROUPS = 4
"""Maximum number of state groups; each group adds one pass over the segment."""


class MDP3(FrameSelector):
    """Takes frames that are relevant, different from each other, and spread over segments.

    MDP3 (Sun et al., "MDP3: A Training-free Approach for List-wise Frame Selection in Video-LLMs",
    ICCV 2025). A set S of frames has the score (2 / lambda) sum log k(f, q) + log det k(S), where
    k(x, y) is the sum of exp(-|x - y|^2 / 2a) over the bandwidths a = 2^-3 ... 2^1. The video is
    divided into segments of ``segment`` frames. Within a segment frames are added greedily, by
    Cholesky updates; dynamic programming distributes the K keyframes over the segments, each
    conditioned on the last keyframe before it. Ties go to the earlier frame.

    It always takes min(K, N) frames. The conditional variance is clamped to at least 1e-10, so that
    copies of a frame have finite scores; this does not affect frames that differ.

    Time O(N K (d + s^2)) with s = min(K, segment); memory O(N + (K s + segment) segment) on top of
    the embeddings. The dynamic programming runs on the CPU.
    """

    source = "MDP3, ICCV 2025"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``mdp3``; the defaults are the authors'.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video keeps all frames.
            relevance_temperature: lambda, above 0. Small: relevance counts most; large: diversity
                counts most.
            segment: The number of frames of a segment, from 1 to 1024.
        """

        keyframes: int = 32
        relevance_temperature: float = 0.2
        segment: int = 32

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            value = self.relevance_temperature
            require_number("relevance_temperature", value, FLOAT32_TINY, FLOAT32_MAX)
            require_whole("segment", self.segment)
            require(self.segment <= 1024, "segment", self.segment, "at most 1024")

    config: Config

    def macs(self, sizes: Sizes) -> float:
        segment, keyframes = self.config.segment, self.config.keyframes
        steps = min(segment, keyframes)
        return (3.5 + segment + keyframes) * sizes.d + (keyframes + 1) * steps * (steps + 5) / 2

    def extra_memory(self, sizes: Sizes) -> float:
        return piece_memory(sizes.d) + 4 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance("mdp3", embeddings, query)
        count = min(self.config.keyframes, len(embeddings))
        if count == len(embeddings):
            return Selection(torch.arange(count, device=embeddings.device), relevance)
        # The squared distance of two unit vectors is 2 - 2 cosine.
        reward = 2 / self.config.relevance_temperature * _kernel(relevance.cpu().double()).log()
        keyframes = self._share(embeddings, reward, count)
        return Selection(torch.tensor(keyframes, device=embeddings.device), relevance)

    def _share(self, embeddings: Tensor, reward: Tensor, count: int) -> list[int]:
        """Distribute ``count`` keyframes over the segments by dynamic programming.

        State k of a segment is the best score of k keyframes up to its end; ``reward`` is ``[N]``.
        """
        scores = [0.0] + [-inf] * count
        sets: list[list[int]] = [[] for _ in range(count + 1)]
        for start in range(0, len(embeddings), self.config.segment):
            frames = unit(embeddings[start : start + self.config.segment]).cpu().double()
            states = [k for k in range(count + 1) if scores[k] > -inf]
            lasts = [sets[k][-1] if sets[k] else -1 for k in states]
            place = torch.tensor(lasts, device=embeddings.device)
            last = unit_rows(embeddings, place.clamp(min=0)).cpu().double()
            similarity = _kernel(_products(last, frames))
            similarity[[n < 0 for n in lasts]] = 0.0
            part = reward[start : start + len(frames)]
            kernel, steps = _kernel(_products(frames, frames)), min(len(frames), count)
            groups = -(-similarity.numel() * steps // ONE_THREAD)
            added = [
                _greedy(kernel, states_of_group, part, steps)
                for states_of_group in similarity.chunk(min(groups, _MAX_GROUPS))
            ]
            gains, picks = map(torch.cat, zip(*added, strict=True))
            scores, sets = _best_of(scores, sets, states, gains.tolist(), (picks + start).tolist())
        return sets[count]


def _best_of(
    scores: list[float],
    sets: list[list[int]],
    states: list[int],
    gains: list[list[float]],
    picks: list[list[int]],
) -> tuple[list[float], list[list[int]]]:
    """Return the best score and set of each number of keyframes, after one more segment.

    Args:
        scores, sets: The best score and set for each number of keyframes, before the segment.
        states: The numbers k with a finite score, one for each row of ``gains`` and ``picks``.
        gains, picks: The gain of the first 1, 2, ... frames added to state k, and these frames.
    """
    best_scores, best = list(scores), {}
    for k, row, frames in zip(states, gains, picks, strict=True):
        for number, gain in enumerate(row[: len(scores) - 1 - k], start=1):
            if scores[k] + gain > best_scores[k + number]:
                best_scores[k + number] = scores[k] + gain
                best[k + number] = k, frames[:number]
    best_sets = list(sets)
    for total, (k, frames) in best.items():
        best_sets[total] = sets[k] + sorted(frames)
    return best_scores, best_sets


def _kernel(cosines: Tensor) -> Tensor:
    """Return the sum of Gaussian kernels of unit vectors, given their cosines."""
    distances = (2 - 2 * cosines).clamp(min=0)
    return torch.stack([(-distances / (2 * a)).exp() for a in _BANDWIDTHS]).sum(0)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b.T`` by matrix-vector products, in the calling thread; see `rows_of_piece`."""
    return torch.stack([b @ vector for vector in a])


def _greedy(kernel: Tensor, last: Tensor, reward: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Add frames of a segment greedily, for several states at once.

    Args:
        kernel: ``[m, m]`` of the frames.
        last: ``[s, m]``, the kernel of each state's last keyframe and the frames; 0 for none.
        reward: ``[m]``.
        steps: The number of frames to add, at most m.

    Returns:
        The total gain ``[s, steps]`` after each step, and the frame ``[s, steps]`` added in it.
    """
    variance_of_one = float(len(_BANDWIDTHS))
    rows = torch.arange(len(last))
    factor = last.new_zeros(steps + 1, *last.shape)  # rows of the Cholesky factors of the frames
    factor[0] = last / variance_of_one**0.5
    variance = (variance_of_one - factor[0].square()).clamp(min=_MIN_VARIANCE)
    free = torch.ones_like(last, dtype=torch.bool)
    gains, picks = [], []
    for step in range(1, steps + 1):
        gain = (variance.log() + reward).masked_fill(~free, -inf)
        pick = gain.argmax(dim=1)  # max(dim=1) starts threads for any size
        gains.append(gain[rows, pick])
        picks.append(pick)
        free[rows, pick] = False
        done = factor[:step]
        projection = (done[:, rows, pick, None] * done).sum(0)
        column = (kernel[pick] - projection) / variance[rows, pick].sqrt()[:, None]
        factor[step] = column
        variance = (variance - column.square()).clamp(min=_MIN_VARIANCE)
    return torch.stack(gains, dim=1).cumsum(1), torch.stack(picks, dim=1)
