"""Q-Former: learned queries attend to the patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._attention import attend, heads_of
from vtc_mergers._checks import check_patches, not_built


class QFormer(TokenMerger):
    """Merges a frame by a few learned queries that attend to it; must be trained.

    One pre-norm layer of cross-attention and a feed-forward network as wide as the patches,
    modelled on the Q-Former of BLIP-2. The learned queries are the same for every frame and
    question.

    About 6 D^2 parameters. Time O(n M D^2); memory O(n M D).
    """

    source = "BLIP-2, ICML 2023"
    query_source = None
    uses_reference = False
    needs_training = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``q_former``.

        Attributes:
            tokens: T, the number of learned queries and so of tokens per frame, at least 1.
        """

        tokens: int = 1

        def __post_init__(self) -> None:
            require_whole("tokens", self.tokens)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def build(self, patch_dim: int, query_dim: int) -> None:
        """Create the parameters: normal with std 0.02, zero biases."""
        self.heads = heads_of(patch_dim)
        self.queries = nn.Parameter(torch.empty(self.config.tokens, patch_dim))
        self.norm_queries = nn.LayerNorm(patch_dim)
        self.norm_patches = nn.LayerNorm(patch_dim)
        self.to_query = nn.Linear(patch_dim, patch_dim)
        # A bias on the keys would cancel in the softmax.
        self.to_key = nn.Linear(patch_dim, patch_dim, bias=False)
        self.to_value = nn.Linear(patch_dim, patch_dim)
        self.to_token = nn.Linear(patch_dim, patch_dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(patch_dim),
            nn.Linear(patch_dim, patch_dim),
            nn.GELU(),
            nn.Linear(patch_dim, patch_dim),
        )
        nn.init.normal_(self.queries, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def macs(self, sizes: Sizes) -> float:
        return (2 * sizes.M + 3 * self.tokens_per_frame) * sizes.D**2

    def extra_memory(self, sizes: Sizes) -> float:
        return 3 * sizes.n * sizes.M * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("q_former", patches)
        if not hasattr(self, "queries"):
            raise not_built("q_former")
        context = self.norm_patches(patches.to(self.queries.dtype))
        queries = self.to_query(self.norm_queries(self.queries)).expand(len(patches), -1, -1)
        attention = attend(queries, self.to_key(context), self.to_value(context), self.heads)
        tokens: Tensor = self.queries + self.to_token(attention)
        tokens = tokens + self.feed_forward(tokens)
        return tokens.to(patches.dtype)
