"""Token budgets: the same number of tokens for every frame, or more beside the keyframes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtc.interfaces.part import FLOAT32_TINY, require, require_number
from vtc.interfaces.token_budget import SHARED, FrameStatistics, TokenBudget


def require_max_tokens(value: object) -> None:
    """Raise a ValueError unless the option ``max_tokens`` is a number of tokens or ``"auto"``."""
    ok = value == "auto" or (type(value) is int and 1 <= value < 2**31)
    require(ok, "max_tokens", value, "a whole number from 1 to 2**31 - 1, or 'auto'")


class Even(TokenBudget):
    """Gives all frames between the keyframes equally many tokens.

    Where there are fewer tokens than frames, groups of consecutive frames share a token; the groups
    of a video differ by at most one frame, except that none reaches across a keyframe. Time O(N).
    """

    source = "baseline"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``even``.

        Attributes:
            max_tokens: The visual tokens of a video, keyframes included; ``"auto"``: what fits the
                context of the model.
        """

        max_tokens: int | Literal["auto"] = "auto"

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        return shared_by_weight(statistics, total, torch.ones(statistics.count))


class Foveated(TokenBudget):
    """Gives frames near a keyframe several tokens and lets far frames share one.

    The weight of a frame falls with the number of frames to the nearest keyframe and, where the
    selector ranks frames, with their relevance. This method is the project's own. Time O(N log K).
    """

    source = "vtc"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``foveated``.

        Attributes:
            max_tokens: As for ``even``.
            reach: The distance from a keyframe, in frames, at which the weight has halved.
            floor: The weight of the farthest and least relevant frame, a share of that of the
                nearest and most relevant one.
        """

        max_tokens: int | Literal["auto"] = "auto"
        reach: float = 4.0
        floor: float = 0.02

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)
            require_number("reach", self.reach, 1e-3, 1e9)
            require_number("floor", self.floor, 1e-6, 1)

    config: Config

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        frames = torch.arange(statistics.count)
        weight = torch.ones(statistics.count, dtype=torch.float64)
        if len(statistics.keyframes):
            after = torch.searchsorted(statistics.keyframes, frames)
            last = len(statistics.keyframes) - 1
            distances = [
                (frames - statistics.keyframes[side.clamp(0, last)]).abs()
                for side in (after - 1, after)
            ]
            weight = 1 / (1 + torch.minimum(*distances) / self.config.reach)
        if statistics.relevance is not None:
            low, high = statistics.relevance.double().aminmax()
            weight = weight * ((statistics.relevance - low) / (high - low).clamp(min=FLOAT32_TINY))
        return shared_by_weight(statistics, total, weight.clamp(min=self.config.floor))


def shared_by_weight(statistics: FrameStatistics, total: int, weight: Tensor) -> Tensor:
    """Share exactly ``min(total, (N - K) * M)`` tokens among frames in proportion to weights.

    Each run of frames between two keyframes gets a whole number of tokens, at least 1 if there are
    enough. A walk over its frames adds up their shares; a frame gets the whole tokens that are
    complete at its end. So a frame with a large share gets several tokens, and consecutive frames
    with small shares form a group that shares one.

    Args:
        weight: ``[N]``, above 0; those of keyframes are ignored.

    Returns:
        As `TokenBudget.allocate`.
    """
    is_other = torch.ones(statistics.count, dtype=torch.bool)
    is_other[statistics.keyframes] = False
    others = is_other.nonzero().flatten()
    tokens = torch.zeros(statistics.count, dtype=torch.int64)
    most = statistics.tokens_per_frame
    total = min(total, len(others) * most)
    if total <= 0:
        return tokens
    weight = weight[others].double()
    run_of = torch.searchsorted(statistics.keyframes, others)
    lengths = torch.unique_consecutive(run_of, return_counts=True)[1].tolist()
    shares = torch.split(_shares(weight, total, most), lengths)
    quotas = _whole(torch.stack([share.sum() for share in shares]), total)
    given = [
        _walk(_shares(part, quota, most), quota)
        for part, quota in zip(torch.split(weight, lengths), quotas.tolist(), strict=True)
    ]
    tokens[others] = torch.cat(given)
    return tokens


def _shares(weight: Tensor, total: int, most: int) -> Tensor:
    """Return shares of ``total`` in proportion to weights, none above ``most``."""
    share = torch.zeros_like(weight)
    is_full = torch.zeros_like(weight, dtype=torch.bool)
    left = float(total)
    while left > 0 and not bool(is_full.all()):
        share = torch.where(is_full, most, weight * (left / weight[~is_full].sum()))
        too_many = (share > most) & ~is_full
        if not bool(too_many.any()):
            break
        is_full |= too_many
        left = total - most * float(is_full.sum())
    return share.clamp(max=most)


def _whole(quotas: Tensor, total: int) -> Tensor:
    """Round quotas ``[R]`` to whole numbers with the same sum, at least 1 each if there are enough.

    The largest remainders are rounded up.
    """
    whole = (quotas + 1e-9).floor().to(torch.int64)
    up = (quotas - whole).argsort(descending=True, stable=True)[: total - int(whole.sum())]
    whole[up] += 1
    if total >= len(quotas):
        for empty in (whole == 0).nonzero().flatten().tolist():
            whole[whole.argmax()] -= 1
            whole[empty] = 1
    return whole


def _walk(share: Tensor, total: int) -> Tensor:
    """Turn the shares ``[n]`` of consecutive frames into whole tokens and groups.

    Frames with none before a frame with one token share it; before a frame with several, they
    share the first of those.
    """
    if total == 0:
        return torch.zeros(len(share), dtype=torch.int64)
    complete = (share.cumsum(0) + 1e-6).floor().clamp(max=total).to(torch.int64)
    complete[-1] = total
    tokens = complete.diff(prepend=complete.new_zeros(1))
    is_empty = tokens == 0
    follows = torch.cat([is_empty.new_zeros(1), is_empty[:-1]])  # the frame before has none
    starts = torch.where(follows, SHARED, 1)  # of frames without a token of their own
    ends = torch.where(follows, torch.where(tokens == 1, SHARED, tokens - 1), tokens)
    return torch.where(is_empty, starts, ends)
