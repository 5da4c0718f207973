"""What several families have in common on the way from pixels to features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


def to_rgb(settings: Any, pixels: Tensor) -> Tensor:
    """Undo a processor's rescaling and normalisation.

    Args:
        settings: The image or video processor that made them.
        pixels: ``[n, 3, H, W]``.

    Returns:
        ``[n, H, W, 3]`` uint8.
    """
    frames = pixels.float()
    if settings.do_normalize:
        mean, std = (frames.new_tensor(v) for v in (settings.image_mean, settings.image_std))
        frames = frames * std[:, None, None] + mean[:, None, None]
    if settings.do_rescale:
        frames = frames / settings.rescale_factor
    return frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def pack_tensor(rows: list[Tensor]) -> BaseModelOutputWithPooling:
    """Features as one tensor ``[1, sum of F, D]``, the rows one after the other."""
    return BaseModelOutputWithPooling(pooler_output=torch.cat(rows)[None])
