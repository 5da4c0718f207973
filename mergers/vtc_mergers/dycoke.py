"""DyCoke: keep only the patches that change within a group of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._arithmetic import cosines
from vtc_mergers._checks import check_patches

_COMPARED_WITH = (None, 0, 0, 2)
"""For each frame of a group, the index of the frame that it is compared with."""


class DyCoke(TokenPruner):
    """Keeps one of every four frames whole, and of the other three the patches that differ most.

    Stage 1, temporal token merging, of DyCoke (Tao et al., "DyCoke: Dynamic Compression of Tokens
    for Fast Video Large Language Models", CVPR 2025): in groups of four frames, frame 2 keeps the
    ``share`` of its patches least similar to frame 1's at the same positions, frame 4 those least
    similar to frame 3, and frame 3 those least similar to frame 1. Ties go to the earlier patch;
    kept patches stay unchanged and in order.

    Groups consist of non-keyframes only, so a group may span a keyframe; in a shorter last group
    the later roles are missing. Stage 2, which prunes the key-value cache, is not implemented.
    Needs no query.

    About 9/4 M D multiplications per frame; memory O(M) on top of input and output.
    """

    source = "DyCoke, CVPR 2025, stage 1"
    query_source = None
    uses_reference = False
    tokens_per_frame: int = -1
    frames_together: int = 4

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dycoke``; the default is the authors'.

        Attributes:
            share: In [0, 1], the share of patches that frames 2 to 4 keep, rounded down.
        """

        share: float = 0.3

        def __post_init__(self) -> None:
            require_number("share", self.share, 0, 1)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 2.25 * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return 2 * sizes.M

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_patches("dycoke", patches)
        frames, count = patches.detach(), patches.shape[1]
        kept = floor(self.config.share * count + 1e-9)  # 0.3 * 10 may be just below 3
        indices = []
        for n in range(len(frames)):
            other = _COMPARED_WITH[n % 4]
            if other is None:
                indices.append(torch.arange(count, device=patches.device))
            else:
                similarity = cosines(frames[n], frames[n - n % 4 + other])
                indices.append(similarity.argsort(stable=True)[:kept].sort().values)
        return indices
