"""Where merged tokens stand, for models with positions in time, height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.part import part_errors
from vtc.interfaces.token_merger import TokenMerger
from vtc.interfaces.video_adapter import VideoAdapter
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.call import Call
    from vtc.pipeline.query import Query


def places_tokens(call: Call) -> bool:
    """Return whether the model has positions in a grid and the merger weighs them."""
    merger = type(call.merger)
    return (
        type(call.adapter).position_ids is not VideoAdapter.position_ids
        and merger.position_weights is not TokenMerger.position_weights
    )


@torch.no_grad()
def middles_of(
    call: Call,
    span: VideoSpan,
    merged: Sequence[Tensor],
    patches: Tensor,
    reference: Tensor,
    has_reference: Tensor,
    query: Query,
) -> list[Tensor | None]:
    """Return for each slice ``[T_i]`` int64, the places in the middle of its tokens.

    None for a slice with a single token, or if the places are unknown.

    Args:
        merged: ``[T_i, D]`` of each slice.
        patches, reference, has_reference: As `vtc.TokenMerger.forward` takes them.

    Raises:
        ValueError: The merger returned something else than weights of its tokens.
    """
    none: list[Tensor | None] = [None] * len(merged)
    if span.grid is None or patches.shape[1] != span.slots.shape[1]:
        return none
    label, embedding = label_of("merger", call.merger), query.for_merger(patches)
    with part_errors(label):
        weights = call.merger.position_weights(patches, reference, has_reference, embedding)
    if weights is None or all(len(tokens) < 2 for tokens in merged):
        return none
    expected = [(len(tokens), patches.shape[1]) for tokens in merged]
    shapes = [tuple(rows.shape) for rows in weights]
    if shapes != expected:
        raise ValueError(f"expected {label} to return position weights {expected}, got {shapes}")
    height, width = span.grid
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in (height, width))
    places = torch.stack([rows.repeat_interleave(width), columns.repeat(height)], dim=1)
    means = torch.cat(list(weights)).double().cpu() @ places
    nearest = (means + 0.5 + 1e-6).floor().long()  # of two middles the later, as of a frame
    cells = nearest[:, 0] * width + nearest[:, 1]
    counts = [len(tokens) for tokens in merged]
    return [own if len(own) > 1 else None for own in torch.split(cells, counts)]
