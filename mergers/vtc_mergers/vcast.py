"""V-CAST: more tokens for frames where the video turns, and the tokens that stand out there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import FLOAT32_MAX, FLOAT32_TINY, require_number
from vtc.interfaces.token_budget import FrameStatistics, TokenBudget, VideoPatches
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._arithmetic import cosines, exact_dtype
from vtc_mergers._checks import check_patches
from vtc_mergers._pruning import share_to_keep
from vtc_mergers._sharing import counts_by_weight, other_frames, patches_of, require_max_tokens

_LEAST = 1e-6
"""The smallest length and range that the authors divide by."""


class VCast(TokenPruner):
    """Keeps the tokens of a frame that are unlike its mean and long.

    V-CAST (2026): the score of a token is 1 - its cosine with the mean of its frame, plus its
    length scaled to [0, 1] over the frame; the highest scores stay. With the budget ``vcast``,
    frames where the video turns keep more. Ties go to the earlier token. Kept tokens stay unchanged
    and in order. Needs no query. Made from a restatement of the authors' code.

    About 4 M D multiplications per frame; memory a float32 copy of a frame beside the input.
    """

    source = "V-CAST, arXiv 2026"
    query_source = None
    uses_reference = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``vcast``.

        Attributes:
            share: In [0, 1], the share of its tokens that a frame keeps without a budget, at least
                one; the authors'.
        """

        share: float = 0.25

        def __post_init__(self) -> None:
            require_number("share", self.share, 0, 1)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 4 * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return sizes.M

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_patches("vcast", patches)
        counts = share_to_keep(patches, self.config.share, tokens)
        kept = []
        for frame, count in zip(patches.detach(), counts, strict=True):
            exact = frame.to(exact_dtype(frame))
            lengths = torch.linalg.vector_norm(exact, dim=-1)
            low, high = lengths.aminmax()
            score = 1 - cosines(frame, exact.mean(dim=0)) + (lengths - low) / (high - low + _LEAST)
            order = score.argsort(descending=True, stable=True)
            kept.append(order[:count].sort().values)
        return kept


class VCastBudget(TokenBudget):
    """Gives frames where the video turns more tokens.

    See `VCast`. The curvature of a frame is 1 - the cosine of the steps to and from it, between the
    means of its neighbours and its own, each scaled to length one; 1 for the first and the last
    frame. Every frame gets one token if there are enough; the rest is shared in proportion to the
    softmax of curvature / temperature, at most M tokens a frame. The authors give what rounding
    leaves to one frame after another until each is full; here the largest remainders are rounded
    up, and what full frames leave goes to all others. Keyframes have no share.

    One pass over the video; memory O(N + D).
    """

    source = VCast.source
    uses_patches: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``vcast``.

        Attributes:
            max_tokens: As for ``even``.
            temperature: Of the softmax over frames, above 0; the authors'.
        """

        max_tokens: int | Literal["auto"] = "auto"
        temperature: float = 0.7

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)
            require_number("temperature", self.temperature, FLOAT32_TINY, FLOAT32_MAX)

    config: Config

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        patches = patches_of(statistics, "vcast")
        others = other_frames(statistics)
        curvature = patches.once("vcast", curvature_of)[others]
        weight = (curvature / self.config.temperature).softmax(dim=0)
        return counts_by_weight(statistics, total, weight, least=1)


def curvature_of(video: VideoPatches) -> Tensor:
    """Return the curvature ``[N]`` float64 of a video at each frame."""
    curvature: list[Tensor] = []
    before: Tensor | None = None
    step: Tensor | None = None
    for chunk in video:
        for frame in chunk:
            mean = F.normalize(frame.mean(dim=0, dtype=exact_dtype(frame)), dim=0, eps=_LEAST)
            if before is not None:
                if step is not None:
                    cosine = F.cosine_similarity(step, mean - before, dim=0, eps=_LEAST)
                    curvature.append(1 - cosine.double())
                step = mean - before
            before = mean
    ends = torch.ones(1 if step is None else 2, dtype=torch.float64)
    inner = torch.stack(curvature).cpu() if curvature else ends[:0]  # one copy from a GPU
    return torch.cat([ends[:1], inner, ends[1:]])
