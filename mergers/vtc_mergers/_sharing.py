"""Share a number of tokens among frames."""

from __future__ import annotations

import torch
from torch import Tensor

from vtc.interfaces.part import require
from vtc.interfaces.token_budget import SHARED, FrameStatistics, VideoPatches


def require_max_tokens(value: object) -> None:
    """Raise a ValueError unless the option ``max_tokens`` is a number of tokens or ``"auto"``."""
    ok = value == "auto" or (type(value) is int and 1 <= value < 2**31)
    require(ok, "max_tokens", value, "a whole number from 1 to 2**31 - 1, or 'auto'")


def shared_by_weight(statistics: FrameStatistics, total: int, weight: Tensor) -> Tensor:
    """Share exactly ``min(total, (N - K) * M)`` tokens among frames in proportion to weights.

    Each run of frames between two keyframes gets a whole number of tokens, at least 1 if there are
    enough. Their shares are accumulated over its frames, and a frame gets a token whenever the sum
    passes a whole number. So a frame with a large share gets several tokens, and consecutive frames
    with small shares form a group that shares one.

    Args:
        weight: ``[N]``, above 0; those of keyframes are ignored.

    Returns:
        As `TokenBudget.allocate`.
    """
    others = other_frames(statistics)
    tokens = torch.zeros(statistics.count, dtype=torch.int64)
    most = statistics.tokens_per_frame
    total = min(total, len(others) * most)
    if total <= 0:
        return tokens
    weight = weight[others].double()
    run_of = torch.searchsorted(statistics.keyframes, others)
    lengths = torch.unique_consecutive(run_of, return_counts=True)[1].tolist()
    shares = torch.split(shares_of(weight, total, most), lengths)
    quotas = whole_numbers(torch.stack([share.sum() for share in shares]), total)
    given = [
        _walk(shares_of(part, quota, most), quota)
        for part, quota in zip(torch.split(weight, lengths), quotas.tolist(), strict=True)
    ]
    tokens[others] = torch.cat(given)
    return tokens


def shares_of(weight: Tensor, total: int, most: int) -> Tensor:
    """Return shares of ``total`` in proportion to weights, none above ``most``."""
    share = torch.zeros_like(weight)
    is_full = torch.zeros_like(weight, dtype=torch.bool)
    left = float(total)
    while left > 0 and not bool(is_full.all()):
        share = torch.where(is_full, most, weight * (left / weight[~is_full].sum()))
        too_many = (share > most) & ~is_full
        if not bool(too_many.any()):
            break
        is_full |= too_many
        left = total - most * float(is_full.sum())
    return share.clamp(max=most)


def whole_numbers(quotas: Tensor, total: int, least_one: bool = True) -> Tensor:
    """Round quotas ``[R]`` to whole numbers with the same sum; at least 1 each if there are enough.

    The largest remainders are rounded up.
    """
    whole = (quotas + 1e-9).floor().to(torch.int64)
    up = (quotas - whole).argsort(descending=True, stable=True)[: total - int(whole.sum())]
    whole[up] += 1
    if least_one and total >= len(quotas):
        for empty in (whole == 0).nonzero().flatten().tolist():
            whole[whole.argmax()] -= 1
            whole[empty] = 1
    return whole


def _walk(share: Tensor, total: int) -> Tensor:
    """Turn the shares ``[n]`` of consecutive frames into whole tokens and groups.

    Frames without a token share the next frame's only token, or its first if it has several.
    """
    if total == 0:
        return torch.zeros(len(share), dtype=torch.int64)
    complete = (share.cumsum(0) + 1e-6).floor().clamp(max=total).to(torch.int64)
    complete[-1] = total
    tokens = complete.diff(prepend=complete.new_zeros(1))
    is_empty = tokens == 0
    follows = torch.cat([is_empty.new_zeros(1), is_empty[:-1]])  # the frame before has none
    starts = torch.where(follows, SHARED, 1)  # of frames without a token of their own
    ends = torch.where(follows, torch.where(tokens == 1, SHARED, tokens - 1), tokens)
    return torch.where(is_empty, starts, ends)


def counts_by_weight(
    statistics: FrameStatistics, total: int, weight: Tensor, least: int = 0
) -> Tensor:
    """Give each frame a whole number of tokens of its own.

    Args:
        total: The tokens of all frames together; exactly as many are used, up to M a frame.
        weight: ``[N - K]``, above 0, of the non-keyframes.
        least: What each frame gets if there are enough; the rest is shared in proportion to the
            weights.

    Returns:
        As `vtc.TokenBudget.allocate`; no frame shares a token.
    """
    tokens = torch.zeros(statistics.count, dtype=torch.int64)
    least = least if total >= least * len(weight) else 0
    most = statistics.tokens_per_frame - least
    rest = min(total - least * len(weight), len(weight) * most)
    if len(weight):
        share = shares_of(weight.double(), rest, most)
        tokens[other_frames(statistics)] = least + whole_numbers(share, rest, least_one=least == 0)
    return tokens


def other_frames(statistics: FrameStatistics) -> Tensor:
    """Return ``[N - K]`` int64, the non-keyframes."""
    is_other = torch.ones(statistics.count, dtype=torch.bool)
    is_other[statistics.keyframes] = False
    return is_other.nonzero().flatten()


def patches_of(statistics: FrameStatistics, budget: str) -> VideoPatches:
    """Return the patches of all frames.

    Raises:
        ValueError: They are missing.
    """
    if statistics.patches is None:
        raise ValueError(f"budget '{budget}' needs FrameStatistics.patches, got None")
    return statistics.patches
