"""Keyframes where the picture changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import vtc
from torch import Tensor


class Changes(vtc.FrameSelector):
    """Takes the frames that differ most from the one before: cuts and sudden events."""

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
                raise ValueError(f"keyframes={self.keyframes}: allowed is a number of at least 1")

    config: Config

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> vtc.Selection:
        """Choose keyframes.

        Args:
            embeddings: ``[N, d]``, one row a frame, of length one.
            query: not used.
            timestamps: not used.

        Returns:
            min(K, N) keyframes, the first frame among them; as relevance the distance of each
            frame to the one before.

        Raises:
            ValueError: the embeddings have another shape, or hold NaN or infinity.
        """
        if embeddings.ndim != 2 or len(embeddings) == 0:
            raise ValueError(f"embeddings are {list(embeddings.shape)}; allowed is [N, d], N >= 1")
        if not embeddings.isfinite().all():
            raise ValueError("embeddings hold NaN or infinity; allowed are finite numbers")
        changes = embeddings.float().diff(dim=0).norm(dim=1)
        # Unit vectors are at most 2 apart; equal changes go to the earlier frame, so 0 is first.
        relevance = torch.cat([changes.new_full((1,), 2.0), changes])
        order = relevance.argsort(descending=True, stable=True)
        return vtc.Selection(order[: self.config.keyframes].sort().values, relevance)
