"""DivPrune: keep the patches of a frame that differ most from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._checks import check_patches
from vtc_mergers._pruning import cosine_matrix, tokens_to_keep


class DivPrune(TokenPruner):
    """Keeps T patches of a frame whose smallest distance from each other is large.

    DivPrune (Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal
    Models", CVPR 2025): the max-min diversity problem, solved greedily. The first patch is the one
    whose nearest neighbour is farthest away; each next one has the largest distance to the nearest
    patch already kept. The distance is 1 - cosine. Ties go to the earlier patch. Kept patches stay
    unchanged and in order.

    The authors keep a fraction of an image's tokens (9.8 % in most experiments), and prune the
    tokens of all frames of a video together; here each frame keeps T. Needs no query.

    M^2 D multiplications per frame; memory O(M^2 + M D) on top of the input.
    """

    source = "DivPrune, CVPR 2025"
    query_source = None
    uses_reference = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``divprune``.

        Attributes:
            tokens: T, the number of patches that a frame keeps, at least 1; a frame with fewer
                patches keeps all. The default is our choice.
        """

        tokens: int = 16

        def __post_init__(self) -> None:
            require_whole("tokens", self.tokens)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def macs(self, sizes: Sizes) -> float:
        return sizes.M**2 * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        matrix, frame = sizes.M**2, sizes.M * sizes.D
        return max(2 * matrix, matrix + frame - sizes.n * self.config.tokens * sizes.D)

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_patches("divprune", patches)
        counts = tokens_to_keep(patches, self.config.tokens, tokens)
        frames = zip(patches.detach(), counts, strict=True)
        return [_most_diverse(frame, count) for frame, count in frames]


def _most_diverse(frame: Tensor, count: int) -> Tensor:
    """Solve the max-min diversity problem of patches ``[M, D]`` greedily: ``[count]`` indices."""
    distances = 1 - cosine_matrix(frame)
    nearest = distances.fill_diagonal_(torch.inf).amin(dim=1)
    keep: list[Tensor] = []
    for _ in range(count):
        keep.append(nearest.argmax(dim=0, keepdim=True))
        row = distances.index_select(0, keep[-1])[0]
        nearest = torch.minimum(nearest, row) if len(keep) > 1 else row
        nearest = nearest.index_fill(0, torch.cat(keep), -torch.inf)
    return torch.cat(keep).sort().values
