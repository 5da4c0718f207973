"""The result of pruners, which keep some patches of a frame unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc_mergers._arithmetic import exact_dtype, without_autocast


def keep_patches(indices: Sequence[Tensor], patches: Tensor, tokens: int) -> Tensor:
    """Return the patches to keep.

    Args:
        indices: n tensors ``[T]`` int64.
        patches: ``[n, M, D]``.
        tokens: The most tokens that a frame keeps, for the shape if n = 0.

    Returns:
        ``[n, T, D]``, with T = min(tokens, M).
    """
    count = min(tokens, patches.shape[1])
    frames = [frame[keep] for frame, keep in zip(patches, indices, strict=True)]
    return torch.stack(frames) if frames else patches[:, :count]


def one_hot_weights(indices: Sequence[Tensor], patches: Tensor, tokens: int) -> Tensor:
    """Return the weights ``[n, T, M]`` of `keep_patches`, in at least float32."""
    count = min(tokens, patches.shape[1])
    rows = [F.one_hot(keep, patches.shape[1]).to(exact_dtype(patches)) for keep in indices]
    empty = (0, count, patches.shape[1])
    return torch.stack(rows) if rows else patches.new_empty(empty, dtype=exact_dtype(patches))


def cosine_matrix(frame: Tensor) -> Tensor:
    """Return the cosines ``[M, M]`` of patches ``[M, D]``, in at least float32; 0 for zeros."""
    with without_autocast(frame.device):
        directions = F.normalize(frame.to(exact_dtype(frame)), dim=1)
        return directions @ directions.T
