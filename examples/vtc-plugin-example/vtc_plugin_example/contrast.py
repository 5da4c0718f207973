"""One token a frame, of what stands out in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import vtc
from torch import Tensor


class Contrast(vtc.TokenMerger):
    """Averages a frame's patches, those unlike the mean patch weighing most."""

    query_source = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the merger.

        Attributes:
            temperature: above 0: small takes few patches, large approaches their mean.
        """

        temperature: float = 0.1

        def __post_init__(self) -> None:
            if not 1e-30 < self.temperature < 1e30:
                raise ValueError(f"expected 1e-30 < temperature < 1e30, got {self.temperature}")

    config: Config

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        weights = self.weights(patches, reference, has_reference, query)
        return (weights @ patches.to(weights.dtype)).to(patches.dtype)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        exact = patches.to(torch.promote_types(patches.dtype, torch.float32))
        likeness = F.cosine_similarity(exact, exact.mean(dim=1, keepdim=True), dim=-1)
        return torch.softmax(-likeness / self.config.temperature, dim=-1)[:, None]
