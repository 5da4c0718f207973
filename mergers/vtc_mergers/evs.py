"""Efficient Video Sampling: keep the tokens that change most, over the whole video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number
from vtc.interfaces.token_budget import FrameStatistics, TokenBudget
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._checks import check_patches, check_reference
from vtc_mergers._pruning import share_to_keep
from vtc_mergers._sharing import counts_by_weight, other_frames, patches_of, require_max_tokens

_FIRST = 255.0
"""How much the tokens of the first frame count as changed: more than all others."""


class EVS(TokenPruner):
    """Keeps the tokens of a frame that differ most from those of the frame before.

    Efficient Video Sampling (NVIDIA, 2025), as in vLLM and in transformers' ``nemotron_h_omni``:
    the dissimilarity is 1 - the cosine with the token in the same place, 255 in the first frame.
    With the budget ``evs`` a video keeps the tokens of the largest dissimilarity over all frames;
    with another budget, or without one, each frame keeps those of its own. Ties go to the earlier
    token. Kept tokens stay unchanged and in order. Computed in the dtype of the tokens, as in
    transformers. Needs no query.

    3 M D multiplications per frame; memory O(n M D) beside the input.
    """

    source = "EVS, NVIDIA 2025"
    query_source = None
    uses_previous_frame = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``evs``.

        Attributes:
            share: In [0, 1], the share of its tokens that a frame keeps without a budget, at least
                one; ours.
        """

        share: float = 0.25

        def __post_init__(self) -> None:
            require_number("share", self.share, 0, 1)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 3 * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return 3 * sizes.n * sizes.M * sizes.D

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_patches("evs", patches)
        check_reference("evs", patches, reference, has_reference)
        counts = share_to_keep(patches, self.config.share, tokens)
        change = torch.where(has_reference[:, None], changes(patches, reference).detach(), _FIRST)
        order = change.argsort(dim=1, descending=True, stable=True)
        return [row[:count].sort().values for row, count in zip(order, counts, strict=True)]


class EVSBudget(TokenBudget):
    """Gives each frame as many tokens as it has among those that change most in the whole video.

    See `EVS`. The total is exact: transformers keeps at least the whole first frame, here it is cut
    if the total is less. Keyframes are not counted, and the frame after one is compared with it.

    Time O(N M log(total)); memory O(total) beside the frames of a chunk.
    """

    source = EVS.source
    uses_patches: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``evs``.

        Attributes:
            max_tokens: As for ``even``.
        """

        max_tokens: int | Literal["auto"] = "auto"

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        is_keyframe = torch.zeros(statistics.count, dtype=torch.bool)
        is_keyframe[statistics.keyframes] = True
        best, frames = torch.empty(0), torch.empty(0, dtype=torch.int64)
        last, first, width = None, 0, 0
        for patches in patches_of(statistics, "evs"):
            before = torch.cat([patches[:1] if last is None else last, patches[:-1]])
            last = patches[-1:]
            change = changes(patches, before).cpu()
            if first == 0:
                change[0] = _FIRST
            numbers = first + torch.arange(len(patches))
            change, numbers = change[~is_keyframe[numbers]], numbers[~is_keyframe[numbers]]
            best = torch.cat([best.to(change), change.flatten()])
            frames = torch.cat([frames, numbers.repeat_interleave(change.shape[1])])
            order = best.argsort(descending=True, stable=True)[:total]
            best, frames = best[order], frames[order]
            first, width = first + len(patches), patches.shape[1]
        counts = torch.bincount(frames, minlength=statistics.count)
        if width == statistics.tokens_per_frame:
            return counts
        # Other patches are merged than a keyframe has tokens.
        return counts_by_weight(statistics, total, counts[other_frames(statistics)] + 1e-3)


def changes(patches: Tensor, before: Tensor) -> Tensor:
    """Return 1 - cosine ``[n, M]`` of patches and those in the same places of the frame before."""
    return 1 - F.cosine_similarity(patches, before, dim=-1)
