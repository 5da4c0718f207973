"""Random pruning: a few patches drawn uniformly, as a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._checks import check_patches
from vtc_mergers._pruning import tokens_to_keep


class RandomPatches(TokenPruner):
    """Keeps T patches of a frame, drawn uniformly at random.

    A control: a pruner that does no better than this makes no use of the patches. A merger does not
    get the index of a frame, so all frames keep patches at the same positions, which depend only on
    ``seed`` and the number of patches.
    """

    source = "control"
    query_source = None
    uses_reference = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``random``.

        Attributes:
            tokens: T, the number of patches that a frame keeps, at least 1; a frame with fewer
                patches keeps all.
            seed: The seed of the draw, at least 0.
        """

        tokens: int = 16
        seed: int = 0

        def __post_init__(self) -> None:
            require_whole("tokens", self.tokens)
            require_whole("seed", self.seed, 0)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def macs(self, sizes: Sizes) -> float:
        return 0

    def extra_memory(self, sizes: Sizes) -> float:
        return sizes.M + sizes.n * self.config.tokens * sizes.D

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_patches("random", patches)
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(patches.shape[1], generator=generator)
        counts = tokens_to_keep(patches, self.config.tokens, tokens)
        return [order[:count].sort().values.to(patches.device) for count in counts]
