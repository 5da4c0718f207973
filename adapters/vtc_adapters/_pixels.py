"""Helpers that several families share, for pixels and features."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


def to_rgb(settings: Any, pixels: Tensor) -> Tensor:
    """Undo a processor's rescaling and normalisation.

    Args:
        settings: The image or video processor that made the pixels.
        pixels: ``[n, 3, H, W]``, floating point, or uint8 if the processor does neither.

    Returns:
        ``[n, H, W, 3]`` uint8.
    """
    if pixels.dtype == torch.uint8:
        return rearrange(pixels, "n c h w -> n h w c")
    frames = pixels.float()
    if settings.do_normalize:
        mean, std = (frames.new_tensor(v) for v in (settings.image_mean, settings.image_std))
        frames = frames * std[:, None, None] + mean[:, None, None]
    if settings.do_rescale:
        frames = frames / settings.rescale_factor
    return rearrange(frames.round().clamp(0, 255).to(torch.uint8), "n c h w -> n h w c")


def pack_tensor(rows: list[Tensor]) -> BaseModelOutputWithPooling:
    """Pack the features ``[F, D]`` of each row as one tensor ``[1, sum of F, D]``."""
    return BaseModelOutputWithPooling(pooler_output=torch.cat(rows)[None])


def stacked_if_equal(features: list[Tensor]) -> Tensor | list[Tensor]:
    """Stack features ``[F_i, D]`` to ``[n, F, D]``; return the list if they differ in length."""
    return torch.stack(features) if len({len(rows) for rows in features}) == 1 else features
