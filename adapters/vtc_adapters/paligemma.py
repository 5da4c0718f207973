"""PaliGemma and PaliGemma 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtc.video import VideoSource
from vtc_adapters._stills import StillsAdapter


class PaliGemmaAdapter(StillsAdapter):
    """PaliGemma: all frames come first, without text between them; the whole prompt is a prefix."""

    causal = False

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the grid of patches."""
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        return side, side

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write one placeholder, BOS, the question and a newline, as the stock processor does."""
        return f"{processor.image_token}{processor.tokenizer.bos_token}{question}\n"

    def text_inputs(self, model: Any, ids: Tensor) -> dict[str, Tensor]:
        """Return ``token_type_ids`` ``[B, L]`` of zeros: the whole prompt is a prefix."""
        return {"token_type_ids": torch.zeros_like(ids)}
