"""What goes into a merger and what comes out of it: whole groups of frames, and checked tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def whole_groups(chunks: Iterable[tuple[Tensor, ...]], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Chunks of tensors that run along the slices, cut anew into whole groups of ``size``.

    What a chunk has too many waits for the next one, so at most ``size - 1`` slices more than a
    chunk are alive. A feed may make chunks smaller than asked for; asking for a multiple of
    ``size`` would not do.
    """
    left: tuple[Tensor, ...] | None = None
    for chunk in chunks:
        if left is not None:
            chunk = tuple(torch.cat(pair) for pair in zip(left, chunk, strict=True))
        count = len(chunk[0])
        whole = count - count % size
        # A view would keep the whole chunk alive.
        left = tuple(part[whole:].clone() for part in chunk) if whole < count else None
        if whole:
            yield tuple(part[:whole] for part in chunk)
    if left is not None:
        yield left


def checked(merged: Any, patches: Tensor, name: str) -> list[Tensor]:
    """The merged tokens of each frame, of the right shape, without the patches behind them."""
    frames, width = len(patches), patches.shape[-1]
    rows = merged if isinstance(merged, (list, Tensor)) else None
    if (
        rows is None
        or len(rows) != frames
        or any(row.ndim != 2 or row.shape[1] != width for row in rows)
    ):
        given = tuple(merged.shape) if isinstance(merged, Tensor) else type(merged).__name__
        raise ValueError(
            f"merger {name!r} returned {given} for {frames} frames of width {width}; allowed is a "
            f"tensor [{frames}, T, {width}], or a list of {frames} tensors [T_i, {width}]"
        )
    # A view of the patches would keep the patches of all frames alive.
    if isinstance(merged, Tensor):
        merged = _compact(merged)
    return [_compact(row) if isinstance(rows, list) else row for row in merged]


def _compact(tokens: Tensor) -> Tensor:
    held = 0 if tokens.is_meta else tokens.untyped_storage().nbytes()
    return tokens.clone() if held > 2 * tokens.nbytes and not tokens.requires_grad else tokens
