"""What mergers compute alike: in at least float32, and on the CPU one frame at a time.

Frames are merged one after another because a batched matrix product may round otherwise for
another number of frames, and the chunk size must never change a result. On other devices the
vision tower rounds otherwise for another chunk in any case, and each operation has to be launched.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import repeat

import torch
from torch import Tensor, nn

_LEAST = 1e-8
"""The least length that a vector is divided by."""
_AT_ONCE = 4
"""Frames merged at once where launches are dear; float32 copies of so many are alive."""
_ROWS_IN_CACHE = 128
"""Rows compared at once on the CPU: 2 MB of float32 at a width of 3,584."""


def frames_at_once(device: torch.device) -> int:
    """How many frames are merged by the same operations."""
    return 1 if device.type == "cpu" else _AT_ONCE


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of rows ``[..., M, D]`` with as many rows, one row or a vector ``[D]``: ``[..., M]``.

    In at least float32; 0 for zero vectors. On the CPU a few rows at a time, so that products and
    copies in another dtype stay in its cache.
    """
    rows = _ROWS_IN_CACHE if a.device.type == "cpu" else a.shape[-2]
    some = torch.split(a, rows, dim=-2)
    one = b.ndim == 1 or b.shape[-2] == 1
    others = repeat(b, len(some)) if one else torch.split(b, rows, dim=-2)
    return torch.cat([_cosines(*pair) for pair in zip(some, others, strict=True)], dim=-1)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    exact = exact_dtype(a, b)
    a, b = a.to(exact), b.to(exact)
    with without_autocast(a.device):
        dots = a @ b if b.ndim == 1 else (a * b).sum(dim=-1)
    lengths = [torch.linalg.vector_norm(x, dim=-1).clamp(min=_LEAST) for x in (a, b)]
    found: Tensor = dots / (lengths[0] * lengths[1])
    return found


def apply(linear: nn.Linear, x: Tensor) -> Tensor:
    """Map in the dtype of the weights, which need not be that of the patches."""
    mapped: Tensor = linear(x.to(linear.weight.dtype))
    return mapped


def weighted_sum(weights: Tensor, frame: Tensor) -> Tensor:
    """Tokens ``[..., T, D]`` of weights ``[..., T, M]`` and patches ``[..., M, D]``, as these."""
    with without_autocast(frame.device):
        return (weights @ frame.to(weights.dtype)).to(frame.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Where matrix products keep the dtype that they are given."""
    if device.type == "meta":  # which knows no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
