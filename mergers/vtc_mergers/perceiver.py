"""Perceiver resampler: learned latents attend to the patches in several layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._attention import attend, heads_of
from vtc_mergers._checks import check_patches, not_built


class Perceiver(TokenMerger):
    """Merges a frame into learned latents that attend to it, layer by layer; must be trained.

    The Perceiver resampler of Flamingo (Alayrac et al., NeurIPS 2022): in each layer the latents
    attend to the patches and to themselves, then pass a feed-forward network four times as wide.
    The paper resamples all frames of a clip together, with time embeddings, to 64 latents in 6
    layers with a squared ReLU. Here each frame is resampled on its own, without a time embedding,
    with fewer latents and layers and with GELU.

    About 12 D^2 parameters per layer. O((M + T) D^2) multiplications per layer and frame; memory
    O((M + T) D) on top of the input.
    """

    source = "Flamingo, NeurIPS 2022"
    query_source = None
    uses_reference = False
    needs_training = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``perceiver``.

        Attributes:
            tokens: T, the number of latents and so of tokens per frame, at least 1.
            layers: The number of layers, at least 1.
        """

        tokens: int = 4
        layers: int = 2

        def __post_init__(self) -> None:
            require_whole("tokens", self.tokens)
            require_whole("layers", self.layers)

    config: Config
    latents: nn.Parameter
    layers: nn.ModuleList

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def build(self, patch_dim: int, query_dim: int) -> None:
        """Create the parameters: normal with std 0.02, zero biases."""
        self.latents = nn.Parameter(torch.empty(self.config.tokens, patch_dim))
        self.layers = nn.ModuleList(_Layer(patch_dim) for _ in range(self.config.layers))
        nn.init.normal_(self.latents, std=0.02)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def macs(self, sizes: Sizes) -> float:
        return self.config.layers * (2 * sizes.M + 12 * self.tokens_per_frame) * sizes.D**2

    def extra_memory(self, sizes: Sizes) -> float:
        return 3 * (sizes.M + self.tokens_per_frame) * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("perceiver", patches)
        if not hasattr(self, "latents"):
            raise not_built("perceiver")
        tokens = [self._resample(frame) for frame in patches]
        empty = (0, self.config.tokens, patches.shape[2])
        return torch.stack(tokens) if tokens else patches.new_empty(empty)

    def _resample(self, frame: Tensor) -> Tensor:
        """Merge a frame ``[M, D]`` into ``[tokens, D]``."""
        latents: Tensor = self.latents
        values = frame.to(latents.dtype)
        for layer in self.layers:
            latents = layer(latents, values)
        return latents.to(frame.dtype)


class _Layer(nn.Module):
    """Attention of the latents to patches and latents, then a feed-forward network."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = heads_of(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.norm_patches = nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, dim)
        # A bias on the keys would cancel in the softmax.
        self.to_key = nn.Linear(dim, dim, bias=False)
        self.to_value = nn.Linear(dim, dim)
        self.to_latent = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, latents: Tensor, patches: Tensor) -> Tensor:
        queries = self.norm_latents(latents)
        context = torch.cat([self.norm_patches(patches), queries])
        attention = attend(
            self.to_query(queries), self.to_key(context), self.to_value(context), self.heads
        )
        latents = latents + self.to_latent(attention)
        output: Tensor = latents + self.feed_forward(latents)
        return output
