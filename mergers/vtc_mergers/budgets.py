"""Token budgets: the same number of tokens for every frame, or more near the keyframes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtc.interfaces.part import FLOAT32_TINY, require_number
from vtc.interfaces.token_budget import FrameStatistics, TokenBudget
from vtc_mergers._sharing import require_max_tokens, shared_by_weight


class Even(TokenBudget):
    """Gives all non-keyframes the same number of tokens.

    If there are fewer tokens than frames, groups of consecutive frames share a token. The groups of
    a video differ in size by at most one frame, except that no group spans a keyframe. Time O(N).
    """

    source = "baseline"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``even``.

        Attributes:
            max_tokens: The maximum number of visual tokens of a video, keyframes included;
                ``"auto"``: as many as fit the model's context.
        """

        max_tokens: int | Literal["auto"] = "auto"

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        return shared_by_weight(statistics, total, torch.ones(statistics.count))


class Foveated(TokenBudget):
    """Gives frames near a keyframe several tokens and lets far frames share one.

    The weight of a frame falls with its distance in frames to the nearest keyframe and, if the
    selector ranks frames, rises with its relevance. This method is the project's own. Time O(N log
    K).
    """

    source = "vtc"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``foveated``.

        Attributes:
            max_tokens: As in ``even``.
            reach: The distance from a keyframe, in frames, at which the weight has halved.
            floor: The minimum weight, as a fraction of the weight of the nearest and most relevant
                frame.
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
