"""Helpers for pruners, which keep some patches of a frame unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import torch.nn.functional as F
from torch import Tensor

from vtc_mergers._arithmetic import exact_dtype, without_autocast


def tokens_to_keep(patches: Tensor, default: int, tokens: Sequence[int] | None) -> list[int]:
    """Return how many of its patches ``[n, M, D]`` each frame keeps: at most M."""
    counts = [default] * len(patches) if tokens is None else tokens
    return [min(count, patches.shape[1]) for count in counts]


def cosine_matrix(frame: Tensor) -> Tensor:
    """Return the cosines ``[M, M]`` of patches ``[M, D]``, in at least float32; 0 for zeros."""
    with without_autocast(frame.device):
        directions = F.normalize(frame.to(exact_dtype(frame)), dim=1)
        return directions @ directions.T


def share_to_keep(patches: Tensor, share: float, tokens: Sequence[int] | None) -> list[int]:
    """Return how many of the patches ``[n, M, D]`` each frame keeps: a share of M, at least one."""
    count = max(1, floor(share * patches.shape[1] + 1e-9))  # 0.3 * 10 may be just below 3
    return tokens_to_keep(patches, count, tokens)
