"""What mergers compute alike: in at least float32, and one frame at a time.

Frames are merged one after another because a batched matrix product may round otherwise for
another number of frames, and the chunk size must never change a result.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines along the last dimension, in at least float32; 0 for zero vectors."""
    exact = exact_dtype(a, b)
    return F.cosine_similarity(a.to(exact), b.to(exact), dim=-1)


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
