"""Heads of attention, as the learned mergers split them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_HEAD_DIM = 64


def heads_of(dim: int) -> int:
    """Heads are 64 wide; where that does not divide ``dim`` there is one head."""
    return dim // _HEAD_DIM if dim % _HEAD_DIM == 0 else 1


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention of ``[..., L, D]`` to ``[..., S, D]``: ``[..., L, D]``."""
    found = F.scaled_dot_product_attention(
        _split(query, heads), _split(key, heads), _split(value, heads)
    )
    return found.transpose(-3, -2).flatten(-2)


def _split(x: Tensor, heads: int) -> Tensor:
    """``[..., L, D]`` to ``[..., heads, L, D / heads]``."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-3, -2)
