"""Merge the non-keyframes of one query from the stream of encoded chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.interfaces.part import part_errors
from vtc.interfaces.segment_merger import SegmentMerger
from vtc.interfaces.token_pruner import TokenPruner
from vtc.pipeline.budget_merging import BudgetMerging
from vtc.pipeline.merge import (
    condense_slices,
    merge_slices,
    prune_slices,
    whole_groups,
    whole_segments,
)
from vtc.pipeline.positions import middles_of, places_tokens
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.pipeline.call import Call
    from vtc.pipeline.compress import QueryPass
    from vtc.pipeline.query import Query


def merge_pass(
    call: Call, query_pass: QueryPass, encoded: Iterable[tuple[Tensor, ...]], survey: Any
) -> Iterator[None]:
    """Merge one query's non-keyframes from the stream of encoded chunks."""
    chunks = (_select(chunk, query_pass.rest) for chunk in encoded)
    allocation, within = query_pass.allocation, None
    if allocation is not None and not isinstance(call.merger, TokenPruner):
        within = BudgetMerging(call, query_pass.feed.span, allocation.tokens, query_pass.keep)
    groups = (
        whole_segments(chunks, _segments_of(call, survey, len(query_pass.feed.span)))
        if isinstance(call.merger, SegmentMerger)
        else whole_groups(chunks, call.merger.frames_together)
    )
    for slices, frames, *others in groups:
        with call.recorder.stage("merging") as stage:
            at = torch.searchsorted(query_pass.rest, slices)
            reference, has_reference = query_pass.references.of(at, frames)
            if call.merger.uses_reference and call.merger.uses_previous_frame:
                *others, before, follows = others
                follows = follows.to(frames.device)
                reference = torch.where(follows[:, None, None], before, reference)
                has_reference |= follows
            saliency = others.pop() if call.uses_saliency else None
            arguments = (frames, reference, has_reference, query_pass.query, others)
            query_pass.heat.keep(slices, *arguments[:-1])
            if within is not None:
                stage.bytes += within.merge(slices, *arguments)
            else:
                stage.bytes += _merge_alone(call, query_pass, survey, saliency, slices, *arguments)
        yield


def _segments_of(call: Call, survey: Any, count: int) -> Tensor:
    """Return ``[N]`` int64 on the CPU, the segments of a video.

    Raises:
        ValueError: The merger returned something else.
    """
    label = label_of("merger", call.merger)
    with part_errors(label):
        segments: Tensor = call.merger.segments(survey)
    fits = isinstance(segments, Tensor) and segments.dtype == torch.int64
    if not fits or segments.shape != (count,) or bool((segments.diff() < 0).any()):
        raise ValueError(
            f"expected {label} to return the segments of {count} frames, ascending int64 "
            f"[{count}], got {segments!r}"
        )
    return segments.cpu()


def _merge_alone(
    call: Call,
    query_pass: QueryPass,
    survey: Any,
    saliency: Tensor | None,
    slices: Tensor,
    frames: Tensor,
    reference: Tensor,
    has_reference: Tensor,
    query: Query,
    extra: Sequence[Tensor],
) -> int:
    """Merge or prune slices one by one; return the bytes of the tokens."""
    arguments = (call, frames, reference, has_reference, query, extra)
    cells: Sequence[Tensor | None] = [None] * len(slices)
    if isinstance(call.merger, TokenPruner):
        allocation = query_pass.allocation
        counts = None if allocation is None else allocation.tokens[slices].tolist()
        if isinstance(call.merger, SegmentMerger):
            merged, kept = condense_slices(call, frames, query, extra, counts, survey, saliency)
        else:
            merged, kept = prune_slices(*arguments, counts, survey, saliency)
        if frames.shape[1] == query_pass.feed.span.slots.shape[1]:
            cells = kept
    else:
        merged = merge_slices(*arguments)
        if places_tokens(call):
            cells = middles_of(call, query_pass.feed.span, merged, *arguments[1:5])
    for index, row, cell in zip(slices.tolist(), merged, cells, strict=True):
        query_pass.keep(index, row, cell)
    return sum(row.nbytes for row in merged)


def _select(chunk: tuple[Tensor, ...], slices: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of a chunk whose slice is in ``slices``."""
    rows = torch.isin(chunk[0], slices).nonzero().flatten()
    if len(rows) == len(chunk[0]):
        return chunk
    return tuple(part[rows.to(part.device)] for part in chunk)
