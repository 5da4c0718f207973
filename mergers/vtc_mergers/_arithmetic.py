"""What mergers compute alike: in at least float32, and one frame at a time.

Frames are merged one after another because a batched matrix product may round otherwise for
another number of frames, and the chunk size must never change a result.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

_LEAST = 1e-8
"""The least length that a vector is divided by."""


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of rows ``[M, D]`` with one vector ``[D]`` or with as many rows ``[M, D]``: ``[M]``.

    In at least float32; 0 for zero vectors. Matrix products, which read their input once, where
    `torch.nn.functional.cosine_similarity` writes several copies of it.
    """
    exact = exact_dtype(a, b)
    a, b = a.to(exact), b.to(exact)
    with without_autocast(a.device):
        dots = a @ b if b.ndim == 1 else (a[:, None] @ b[:, :, None])[:, 0, 0]
    lengths = [torch.linalg.vector_norm(x, dim=-1).clamp(min=_LEAST) for x in (a, b)]
    found: Tensor = dots / (lengths[0] * lengths[1])
    return found


def apply(linear: nn.Linear, x: Tensor) -> Tensor:
    """Map in the dtype of the weights, which need not be that of the patches."""
    mapped: Tensor = linear(x.to(linear.weight.dtype))
    return mapped


def weighted_sum(weights: Tensor, frame: Tensor) -> Tensor:
    """The tokens ``[T, D]`` of weights ``[T, M]`` and patches ``[M, D]``, in the patches' dtype."""
    with without_autocast(frame.device):
        return (weights @ frame.to(weights.dtype)).to(frame.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Where matrix products keep the dtype that they are given."""
    if device.type == "meta":  # which knows no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
