"""DIG: evenly spaced frames of the scenes that matter to the question."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_number, require_whole
from vtc_selectors._cosine import (
    changes,
    min_max,
    piece_memory,
    query_relevance,
    rows_of_piece,
)

_AROUND = 2
"""Scenes before and after a good one that are taken too."""


class Dig(FrameSelector):
    """Cuts the video into scenes, rates their middle frames, and samples around the best evenly.

    The refinement for questions about a moment in DIG (Li et al., "Divide, then Ground: Adapting
    Frame Selection to Query Types for Long-Form Video Understanding", CVPR 2026). Scenes end where
    the cosine distance of neighbouring frames has a peak of some prominence. Scores of the scenes
    are scaled to [0, 1]. Of those above 0, the fewer of two sets are good: those left when the mean
    is subtracted again and again, until no further score falls to 0; and those above half of the
    largest. K frames come evenly from the union of the good scenes and the two before and after
    each.

    The authors cut by DINOv2 at 2 frames/s, minute by minute, and ask the language model to rate
    pictures. Here the selector's frame encoder does both: a scene's score is the cosine of its
    middle frame and the query. To use another scorer, override `rate` in a subclass. Their code
    takes one scene fewer after a good one, and never the end of the last scene. Their first step,
    in which a language model finds questions about the whole video and samples those evenly, is
    left to the caller (``uniform``). A video of at most K frames keeps all of them.

    Time O(N d); memory O(N) on top of the embeddings.
    """

    source = "DIG, CVPR 2026"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dig``; the default prominence is the authors'.

        Attributes:
            keyframes: K, the maximum number of keyframes, at least 1.
            prominence: In [0, 2], the least prominence of a change between scenes: how far it is
                above the higher of the lowest changes between it and a larger one on either side.
        """

        keyframes: int = 32
        prominence: float = 0.1

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("prominence", self.prominence, 0, 2)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 4.5 * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return 2 * piece_memory(sizes.d) + sizes.N

    def rate(self, frames: Tensor, embeddings: Tensor, query: Tensor | None) -> Tensor:
        """Return ``[s]``, how much the middle frames of scenes matter to the question.

        Args:
            frames: ``[s]`` int64, their numbers, ascending.
            embeddings: ``[N, d]``, those of all frames.
            query: ``[d]``.
        """
        parts = torch.split(frames, rows_of_piece(embeddings))
        return torch.cat([query_relevance("dig", embeddings[part], query) for part in parts])

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        query_relevance("dig", embeddings[:1], query)  # checks both
        count, keyframes = len(embeddings), self.config.keyframes
        cuts = peaks(changes(embeddings).tolist(), self.config.prominence)
        borders = [0, *(cut + 1 for cut in cuts), count]
        lengths = torch.tensor(borders).diff()
        middles = (torch.tensor(borders[:-1]) + (lengths - 1) // 2).to(embeddings.device)
        scores = self.rate(middles, embeddings, query).float().cpu()
        relevance = scores.repeat_interleave(lengths).to(embeddings.device)
        if count <= keyframes:
            return Selection(torch.arange(count, device=embeddings.device), relevance)
        is_taken = torch.zeros(count, dtype=torch.bool)
        for scene in good_scenes(min_max(scores).tolist()) or range(len(lengths)):
            first, last = max(0, scene - _AROUND), min(len(lengths), scene + _AROUND + 1)
            is_taken[borders[first] : borders[last]] = True
        union = is_taken.nonzero().flatten()
        places = torch.linspace(0, len(union) - 1, keyframes, dtype=torch.float64).long()
        return Selection(union[torch.unique(places)].to(embeddings.device), relevance)


def good_scenes(scores: list[float]) -> list[int]:
    """Return the scenes with good scores; none if no score is above 0.

    Args:
        scores: In [0, 1].
    """
    active = [scene for scene, score in enumerate(scores) if score > 0]
    if len(active) <= 1:
        return active
    left, zeros = [scores[scene] for scene in active], -1
    while (now := sum(score == 0 for score in left)) != zeros:
        zeros, mean = now, sum(left) / len(left)
        left = [max(score - mean, 0.0) for score in left]
    half = max(scores) / 2
    repeated = [scene for scene, score in zip(active, left, strict=True) if score > 0]
    above_half = [scene for scene in active if scores[scene] > half]
    return repeated if len(repeated) <= len(above_half) else above_half


def peaks(values: list[float], prominence: float) -> list[int]:
    """Return the places of peaks of at least some prominence, ascending.

    A peak is larger than its neighbours; of equal neighbouring values it is the middle one. The
    first and the last value are no peaks.
    """
    places, start = [], 1
    while start < len(values) - 1:
        end = start
        while end + 1 < len(values) and values[end + 1] == values[start]:
            end += 1
        if end + 1 < len(values) and values[start - 1] < values[start] > values[end + 1]:
            places.append((start + end) // 2)
        start = end + 1
    return [
        place
        for place, (left, right) in zip(places, _bases(values, places), strict=True)
        if values[place] - max(left, right) >= prominence
    ]


def _bases(values: list[float], places: list[int]) -> list[tuple[float, float]]:
    """Return the lowest value between each place and a larger one on the left and on the right."""
    left = _lows(values)
    right = _lows(values[::-1])[::-1]
    return [(left[place], right[place]) for place in places]


def _lows(values: list[float]) -> list[float]:
    """Return for each value the lowest one since the last larger one, itself included."""
    lows: list[float] = []
    larger: list[tuple[float, float]] = []  # descending values, and the lowest one up to each
    for value in values:
        low = value
        while larger and larger[-1][0] <= value:
            low = min(low, larger.pop()[1])
        lows.append(low)
        larger.append((value, low))
    return lows
