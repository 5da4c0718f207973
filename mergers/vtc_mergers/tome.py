"""Token merging: similar patches merge into one token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype, weighted_sum
from vtc_mergers._checks import check_patches
from vtc_mergers._matching import matching_weights


class ToMe(TokenMerger):
    """Merges the most similar patches of a frame until ``tokens`` are left.

    Bipartite soft matching of Token Merging (Bolya et al., ICLR 2023), as in ``_matching.py``. The
    paper merges a few tokens in every layer of the vision transformer and compares attention keys;
    here the output patches are compared and merged in as few steps as possible, at most half of
    them per step. With few ``tokens`` the last steps may merge dissimilar patches. Tokens are in
    the order of their first patches. Gradients flow through the means, not through the matching.

    About 1/3 M^2 D multiplications per frame for the cosines of all steps, and T M D for the means.
    Memory O(M^2 + M D + n T D) on top of the input.
    """

    source = "Token Merging, ICLR 2023"
    query_source = None
    uses_reference = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``tome``.

        Attributes:
            tokens: T, the number of tokens of a frame, at least 1; a frame with fewer patches is
                unchanged. The paper removes r tokens per layer; the default is our choice.
        """

        tokens: int = 16

        def __post_init__(self) -> None:
            require_whole("tokens", self.tokens)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def macs(self, sizes: Sizes) -> float:
        return (sizes.M / 3 + self.config.tokens) * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        tokens = self.config.tokens
        return max(
            sizes.M**2 / 4 + sizes.M * sizes.D, 3 * tokens * sizes.M, sizes.n * tokens * sizes.D
        )

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("tome", patches)
        _, count, dim = patches.shape
        if count <= self.config.tokens:
            return patches
        tokens = [
            weighted_sum(matching_weights(frame, self.config.tokens), frame) for frame in patches
        ]
        return torch.stack(tokens) if tokens else patches.new_empty(0, self.config.tokens, dim)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("tome", patches)
        rows = [matching_weights(frame, self.config.tokens) for frame in patches]
        count = patches.shape[1]
        shape = (0, min(self.config.tokens, count), count)
        return torch.stack(rows) if rows else patches.new_empty(shape, dtype=exact_dtype(patches))

    def position_weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        return self.weights(patches, reference, has_reference, query)
