"""Arithmetic of the mergers: in at least float32, and one frame at a time on the CPU.

The CPU merges frame by frame because the rounding of a batched matrix product may depend on the
number of frames, and results must not depend on the chunk size. On other devices the vision tower's
own rounding depends on the chunk anyway, and each kernel launch costs time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat

import torch
from torch import Tensor, nn

_MIN_NORM = 1e-8
"""Lower bound on vector norms before a division."""
_GPU_FRAMES = 4
"""Frames merged at once on a GPU, all with a float32 copy in memory."""
_CPU_ROWS = 128
"""Rows compared at once on the CPU: 2 MB of float32 at a width of 3,584, to fit the cache."""


def frames_at_once(device: torch.device) -> int:
    """Return the number of frames to merge in one batch."""
    return 1 if device.type == "cpu" else _GPU_FRAMES


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest dtype of the tensors, at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the row-wise cosines.

    Args:
        a: ``[..., M, D]``.
        b: ``[..., M, D]``, or ``[..., 1, D]`` or ``[D]`` to compare all rows with one vector.

    Returns:
        ``[..., M]`` in at least float32; 0 for zero vectors. The CPU processes a few rows at a
        time, so that products and copies fit its cache.
    """
    return cosines_with_each(a, [b])[0]


def cosines_with_each(a: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
    """Return the `cosines` of ``a`` with each of ``others``, reading and converting ``a`` once."""
    rows = _CPU_ROWS if a.device.type == "cpu" else a.shape[-2]
    blocks = torch.split(a, rows, dim=-2)
    parts = []
    for b in others:
        one = b.ndim == 1 or b.shape[-2] == 1
        parts.append(repeat(b, len(blocks)) if one else torch.split(b, rows, dim=-2))
    columns = [_cosines(*block) for block in zip(blocks, *parts, strict=False)]
    return [torch.cat(column, dim=-1) for column in zip(*columns, strict=True)]


def _cosines(a: Tensor, *others: Tensor) -> list[Tensor]:
    exact = exact_dtype(a, *others)
    a = a.to(exact)
    lengths = _lengths(a)
    cosines = []
    for b in others:
        b = b.to(exact)
        with without_autocast(a.device):
            dots = a @ b if b.ndim == 1 else (a * b).sum(dim=-1)
        cosines.append(dots / (lengths * _lengths(b)))
    return cosines


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=-1).clamp(min=_MIN_NORM)
    return lengths


def apply(linear: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear map in the dtype of its weights, which may differ from the dtype of ``x``."""
    result: Tensor = linear(x.to(linear.weight.dtype))
    return result


def weighted_sum(weights: Tensor, frame: Tensor) -> Tensor:
    """Return tokens ``[..., T, D]`` from weights ``[..., T, M]`` and patches ``[..., M, D]``.

    The dtype is that of the patches.
    """
    with without_autocast(frame.device):
        return (weights @ frame.to(weights.dtype)).to(frame.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast in a context, so that matrix products keep the dtype of their inputs."""
    if device.type == "meta":  # has no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
