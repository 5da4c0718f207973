"""FOCUS: look at few frames of every part of the video, and closer where they are relevant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log, sqrt

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import LazySelector, Selection
from vtc.interfaces.part import FLOAT32_TINY, require_number, require_whole
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
            require_number("arm_seconds", self.arm_seconds, 1e-3, 1e9)
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
        times = torch.arange(count).double() if timestamps is None else timestamps.double()
        generator = torch.Generator().manual_seed(self.config.seed)
        arms = _arms(times, self.config.arm_seconds)
        looks = [_first_looks(arm, generator) for arm in arms]
        scores = dict(_scored(score, torch.cat(looks)))
        bounds = _upper_bounds([[scores[n] for n in look.tolist()] for look in looks])
        closely = _best(bounds, ceil(self.config.zoom * len(arms) - 1e-9))
        for arm in closely:
            looks[arm] = torch.unique(torch.cat([looks[arm], _each_second(arms[arm], times)]))
        new = [n for arm in closely for n in looks[arm].tolist() if n not in scores]
        scores.update(_scored(score, torch.tensor(sorted(new), dtype=torch.int64)))
        relevance = torch.cat(
            [_estimates(arm, look, scores) for arm, look in zip(arms, looks, strict=True)]
        )
        known = torch.tensor(sorted(scores))
        best = relevance[known].argsort(descending=True, stable=True)
        keep = set(known[best][: round(self.config.best_share * keyframes)].tolist())
        means = [sum(scores[n] for n in look.tolist()) / len(look) for look in looks]
        most = min(max(_FEWEST_ARMS, len(closely)), _MOST_ARMS)
        ranked = _best(means, len(arms))
        uniform = torch.rand(count, dtype=torch.float64, generator=generator)
        noise = -(-uniform.clamp(min=torch.finfo(torch.float64).tiny).log()).log()
        keys = relevance.double() / self.config.temperature + noise  # Gumbel top-k
        drawn = [arms[arm][keys[arms[arm]].argsort(descending=True)].tolist() for arm in ranked]
        for group in (drawn[:most], drawn[most:]):
            keep.update(_evenly(group, keep, keyframes - len(keep)))
        return Selection(torch.tensor(sorted(keep)), relevance)


def _arms(times: Tensor, seconds: float) -> list[Tensor]:
    """Cut the frames into runs of ``seconds``; return the numbers of each run."""
    run = ((times - times[0]) / seconds).floor()
    lengths = torch.unique_consecutive(run, return_counts=True)[1]
    return list(torch.split(torch.arange(len(times)), lengths.tolist()))


def _first_looks(arm: Tensor, generator: torch.Generator) -> Tensor:
    """Return the centre of an arm and two other frames at random, ascending."""
    centre = len(arm) // 2
    others = torch.cat([arm[:centre], arm[centre + 1 :]])
    order = torch.randperm(len(others), generator=generator)[: _LOOKS - 1]
    return torch.cat([arm[centre : centre + 1], others[order]]).sort().values


def _scored(score: Callable[[Tensor], Tensor], frames: Tensor) -> list[tuple[int, float]]:
    return list(zip(frames.tolist(), score(frames).tolist(), strict=True)) if len(frames) else []


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


def _each_second(arm: Tensor, times: Tensor) -> Tensor:
    """Return the first frame of each second of an arm."""
    second = ((times[arm] - times[arm[0]]) / _STEP + 1e-6).floor()
    is_first = second.diff(prepend=second[:1] - 1) > 0
    return arm[is_first]


def _estimates(arm: Tensor, look: Tensor, scores: dict[int, float]) -> Tensor:
    """Return ``[n]`` float32 for the frames of an arm: the score of the nearest scored one."""
    nearest = (arm[:, None] - look).abs().argmin(dim=1)
    return torch.tensor([scores[n] for n in look.tolist()])[nearest]


def _evenly(groups: list[list[int]], taken: set[int], count: int) -> list[int]:
    """Take ``count`` numbers from groups in turn, in the order of each; skip those taken."""
    rest = [[n for n in group if n not in taken] for group in groups]
    turns = [n for turn in range(max(map(len, rest), default=0)) for n in
             (group[turn] for group in rest if turn < len(group))]  # fmt: skip
    return turns[:count]
