"""Multi-head attention of the learned mergers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_HEAD_DIM = 64


def heads_of(dim: int) -> int:
    """Return the number of heads of width 64; 1 if ``dim`` is not a multiple of 64."""
    return dim // _HEAD_DIM if dim % _HEAD_DIM == 0 else 1


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Return the attention ``[..., L, D]`` of queries ``[..., L, D]`` to keys ``[..., S, D]``."""
    output = F.scaled_dot_product_attention(
        _split(query, heads), _split(key, heads), _split(value, heads)
    )
    return output.transpose(-3, -2).flatten(-2)


def _split(x: Tensor, heads: int) -> Tensor:
    """Reshape ``[..., L, D]`` to ``[..., heads, L, D / heads]``."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-3, -2)
