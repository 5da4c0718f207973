"""Keyframes where the picture changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import vtc
from torch import Tensor


class Changes(vtc.FrameSelector):
    """Takes the frames that differ most from the one before: cuts and sudden events.

    The first frame is always taken; the relevance of a frame is its distance to the one before.
    """

    uses_query: ClassVar[bool] = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the selector.

        Attributes:
            keyframes: K, the number of keyframes, at least 1; a shorter video gets all its frames.
        """

        keyframes: int = 32

        def __post_init__(self) -> None:
            if self.keyframes < 1:
                raise ValueError(f"expected keyframes >= 1, got {self.keyframes}")

    config: Config

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> vtc.Selection:
        if embeddings.ndim != 2 or len(embeddings) == 0:
            raise ValueError(f"expected embeddings [N, d], got {list(embeddings.shape)}")
        if not embeddings.isfinite().all():
            raise ValueError("expected finite embeddings, got NaN or infinity")
        changes = embeddings.float().diff(dim=0).norm(dim=1)
        # Unit vectors are at most 2 apart; equal changes go to the earlier frame, so 0 is first.
        relevance = torch.cat([changes.new_full((1,), 2.0), changes])
        order = relevance.argsort(descending=True, stable=True)
        return vtc.Selection(order[: self.config.keyframes].sort().values, relevance)
