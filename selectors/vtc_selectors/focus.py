"""FOCUS: look at few frames of every part of the video, and closer where they are relevant."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, floor, log, sqrt

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import LazySelector, Selection
from vtc.interfaces.part import FLOAT32_MAX, FLOAT32_TINY, require_number, require_whole
from vtc_selectors._cosine import piece_memory, query_relevance

_LOOKS = 3
"""Frames of each arm that are scored first: its centre and two at random."""
_FEWEST_ARMS, _MOST_ARMS = 4, 32
_STEP = 1.0
"""Seconds between the frames that are scored in the best arms."""


class Focus(LazySelector):
    """Scores a few frames of each part of the video, then more of the most promising parts.

    FOCUS (ICLR 2026) treats parts of 16 seconds as the arms of a bandit. The centre and two random
    frames of each arm are scored. The arms with the highest upper confidence bound, mean +
    sqrt(2 ln n_all variance / n) + 3 ln n_all / n, are scored once a second. A fifth of the
    keyframes are the best scores; the others come evenly from the 4 to 32 best arms, drawn with
    probabilities softmax(score / temperature).

    At 1 frame/s it scores 44 % of the frames of a long video, at 30 frames/s 1.5 %; the others are
    neither decoded nor embedded. Made from a restatement of the authors' code. Ours: frames that
    were not scored have the score of the nearest scored frame of their arm; as many arms count as
    best as were scored more closely, within 4 to 32; what an arm cannot give goes to the next ones;
    a video of at most K frames keeps all of them. Ties go to the earlier arm or frame. Without
    timestamps a frame takes a second. ``seed`` and the number of frames determine what is drawn.

    Time O(N d) in the worst case; memory O(N) beside the embeddings.
    """

    source = "FOCUS, ICLR 2026"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``focus``; the defaults are the authors', but for the seed.

        Attributes:
            keyframes: K, the number of keyframes, at least 1.
            arm_seconds: The length of an arm, above 0.
            zoom: In [0, 1], the share of the arms that are scored closely.
            best_share: In [0, 1], the share of the keyframes that are the best scores.
            temperature: Of the draw within an arm, above 0.
            seed: The seed of the draws, at least 0.
        """

        keyframes: int = 32
        arm_seconds: float = 16.0
        zoom: float = 0.25
        best_share: float = 0.2
        temperature: float = 0.06
        seed: int = 0

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("arm_seconds", self.arm_seconds, 1e-3, FLOAT32_MAX)
            require_number("zoom", self.zoom, 0, 1)
            require_number("best_share", self.best_share, 0, 1)
            require_number("temperature", self.temperature, FLOAT32_TINY, 1e9)
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
        relevance = query_relevance("focus", embeddings, query).cpu()
        times = None if timestamps is None else timestamps.cpu()
        selection = self.search(lambda frames: relevance[frames], len(relevance), times)
        return Selection(selection.keyframes.to(embeddings.device), relevance.to(embeddings.device))

    def search(
        self, score: Callable[[Tensor], Tensor], count: int, timestamps: Tensor | None
    ) -> Selection:
        keyframes = self.config.keyframes
        if count <= keyframes:
            return Selection(torch.arange(count), None)
        times = list(map(float, range(count))) if timestamps is None else timestamps.tolist()
        generator = random.Random(self.config.seed)
        arms = _arms(times, self.config.arm_seconds)
        looks = [_first_looks(arm, generator) for arm in arms]
        scores = _scored(score, itertools.chain.from_iterable(looks))
        bounds = _upper_bounds([[scores[n] for n in look] for look in looks])
        closely = _best(bounds, ceil(self.config.zoom * len(arms) - 1e-9))
        for arm in closely:
            looks[arm] = sorted({*looks[arm], *_each_second(arms[arm], times)})
        new = (n for arm in closely for n in looks[arm] if n not in scores)
        scores.update(_scored(score, new))
        pairs = zip(arms, looks, strict=True)
        relevance = [one for arm, look in pairs for one in _estimates(arm, look, scores)]
        best = sorted(sorted(scores), key=lambda n: -scores[n])
        keep = set(best[: round(self.config.best_share * keyframes)])
        means = [sum(scores[n] for n in look) / len(look) for look in looks]
        most = min(max(_FEWEST_ARMS, len(closely)), _MOST_ARMS)
        drawn = []
        for arm in _best(means, len(arms)):
            keys = {n: self._key(relevance[n], generator) for n in arms[arm]}
            drawn.append(sorted(arms[arm], key=lambda n, keys=keys: -keys[n]))  # type: ignore[misc]
        for group in (drawn[:most], drawn[most:]):
            keep.update(_evenly(group, keep, keyframes - len(keep)))
        return Selection(torch.tensor(sorted(keep)), torch.tensor(relevance))

    def _key(self, relevance: float, generator: random.Random) -> float:
        """Return a score with Gumbel noise: the largest are a draw without replacement."""
        uniform = max(generator.random(), sys.float_info.min)
        return relevance / self.config.temperature - log(-log(uniform))


def _arms(times: list[float], seconds: float) -> list[range]:
    """Cut the frames into runs of ``seconds``; return the numbers of each run."""
    runs = [floor((time - times[0]) / seconds) for time in times]
    starts = [n for n in range(len(runs)) if n == 0 or runs[n] != runs[n - 1]]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(runs)], strict=True)]


def _first_looks(arm: range, generator: random.Random) -> list[int]:
    """Return the centre of an arm and two other frames at random, ascending."""
    centre = arm[len(arm) // 2]
    others = [n for n in arm if n != centre]
    return sorted([centre, *generator.sample(others, min(_LOOKS - 1, len(others)))])


def _scored(score: Callable[[Tensor], Tensor], frames: Iterable[int]) -> dict[int, float]:
    """Return the scores of frames by number, from one call."""
    numbers = sorted(frames)
    if not numbers:
        return {}
    return dict(zip(numbers, score(torch.tensor(numbers)).tolist(), strict=True))


def _upper_bounds(scores: list[list[float]]) -> list[float]:
    """Return the upper confidence bound of each arm, of the scores of its frames."""
    number = log(sum(map(len, scores)))
    bounds = []
    for own in scores:
        mean = sum(own) / len(own)
        variance = sum((one - mean) ** 2 for one in own) / len(own)
        bounds.append(mean + sqrt(2 * number * variance / len(own)) + 3 * number / len(own))
    return bounds


def _best(values: list[float], count: int) -> list[int]:
    """Return the indices of the largest values, largest first; ties go to the earlier."""
    return sorted(range(len(values)), key=lambda arm: -values[arm])[:count]


def _each_second(arm: range, times: list[float]) -> list[int]:
    """Return the first frame of each second of an arm."""
    seconds = [floor((times[n] - times[arm[0]]) / _STEP + 1e-6) for n in arm]
    return [n for at, n in enumerate(arm) if at == 0 or seconds[at] != seconds[at - 1]]


def _estimates(arm: range, look: list[int], scores: dict[int, float]) -> list[float]:
    """Return the score of the nearest scored frame for each frame of an arm."""
    return [scores[min(look, key=lambda other, n=n: abs(other - n))] for n in arm]  # type: ignore[misc]


def _evenly(groups: list[list[int]], taken: set[int], count: int) -> list[int]:
    """Take ``count`` numbers from groups in turn, in the order of each; skip those taken."""
    rest = [[n for n in group if n not in taken] for group in groups]
    turns = [n for turn in range(max(map(len, rest), default=0)) for n in
             (group[turn] for group in rest if turn < len(group))]  # fmt: skip
    return turns[:count]
