"""Merge slices: pass whole groups of frames to the merger and check its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.interfaces.part import part_errors
from vtc.interfaces.token_pruner import TokenPruner
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.interfaces.token_budget import VideoPatches
    from vtc.pipeline.call import Call
    from vtc.pipeline.query import Query


def whole_groups(chunks: Iterable[tuple[Tensor, ...]], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Cut chunks of tensors that run along the slices into whole groups of ``size``.

    The remainder of a chunk goes into the next one, so at most ``size - 1`` slices more than a
    chunk are alive. A feed may return smaller chunks than requested, so requesting a multiple of
    ``size`` is not enough.
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


def whole_segments(
    chunks: Iterable[tuple[Tensor, ...]], segments: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Cut and join chunks of tensors that run along the slices at the ends of segments.

    Args:
        segments: ``[N]`` int64, ascending, the number of each slice's segment.
    """
    parts: list[tuple[Tensor, ...]] = []
    for chunk in chunks:
        lengths = torch.unique_consecutive(segments[chunk[0]], return_counts=True)[1].tolist()
        for part in zip(*(torch.split(tensor, lengths) for tensor in chunk), strict=True):
            if parts and segments[parts[-1][0][-1]] != segments[part[0][0]]:
                yield tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
                parts = []
            # A view would keep the whole chunk alive.
            parts.append(tuple(tensor.clone() for tensor in part))
    if parts:
        yield tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def merge_slices(
    call: Call,
    patches: Tensor,
    reference: Tensor,
    has_reference: Tensor,
    query: Query,
    extra: Sequence[Tensor],
) -> list[Tensor]:
    """Merge n slices into a list of n tensors ``[T_i, D]``.

    Args:
        patches, reference, has_reference: As `vtc.TokenMerger.forward` takes them.
        query: The query of the row.
        extra: Further features ``[n, M, D]`` of the same patches (deepstack). They are merged with
            the same weights and appended to the merged tokens: ``[T_i, (1 + len(extra)) * D]``.

    Raises:
        ValueError: The merger returned something else.
    """
    label = label_of("merger", call.merger)
    embedding = query.for_merger(patches)
    with part_errors(label):
        merged = call.merger(patches, reference, has_reference, embedding)
        weights = (
            call.merger.weights(patches, reference, has_reference, embedding) if extra else None
        )
    rows = checked_tokens(merged, patches, label)
    if not extra:
        return rows
    if weights is None:
        call.recorder.warn(
            f"{label} gives no weights of the patches, so the deepstack features of a merged frame "
            "are their plain mean"
        )
    return [
        _with_extra(row, None if weights is None else weights[number], extra, number)
        for number, row in enumerate(rows)
    ]


@torch.no_grad()  # the choice of tokens has no gradient
def survey_video(call: Call, patches: VideoPatches) -> Any:
    """Return a pruner's summary of the whole video; None if it uses none."""
    if not isinstance(call.merger, TokenPruner) or not call.merger.uses_survey:
        return None
    with part_errors(label_of("merger", call.merger)):
        return call.merger.survey(patches)


def prune_slices(
    call: Call,
    patches: Tensor,
    reference: Tensor,
    has_reference: Tensor,
    query: Query,
    extra: Sequence[Tensor],
    counts: Sequence[int] | None,
    survey: Any = None,
    saliency: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Keep some tokens of n slices.

    Args:
        patches, reference, has_reference, query, extra: As for `merge_slices`.
        counts: The number of tokens that each slice keeps; None: the pruner decides.
        survey: The result of `survey_video`.
        saliency: ``[n, M]``; None if the pruner uses none.

    Returns:
        n tensors ``[T_i, (1 + len(extra)) * D]``, and their indices ``[T_i]`` int64.

    Raises:
        ValueError: The pruner returned something else.
    """
    label, embedding = label_of("merger", call.merger), query.for_merger(patches)
    with part_errors(label):
        options: dict[str, Any] = {"survey": survey} if call.merger.uses_survey else {}
        if call.merger.uses_saliency:
            options["saliency"] = saliency
        indices = call.merger.keep(patches, reference, has_reference, embedding, counts, **options)
    kept = checked_indices(indices, patches, counts, label)
    rows = []
    for number, keep in enumerate(indices):
        deep = [layer[number][keep] for layer in extra]
        rows.append(torch.cat([patches[number][keep], *deep], dim=-1))
    return rows, kept


@torch.no_grad()  # the weights have no gradient
def _condensed(
    call: Call,
    patches: Tensor,
    saliency: Tensor | None,
    query: Query,
    counts: Sequence[int] | None,
    survey: Any,
) -> Iterator[tuple[Tensor, Tensor]]:
    label, embedding = label_of("merger", call.merger), query.for_merger(patches)
    with part_errors(label):
        yield from call.merger.condense(patches, saliency, embedding, counts, survey)


def condense_slices(
    call: Call,
    patches: Tensor,
    query: Query,
    extra: Sequence[Tensor],
    counts: Sequence[int] | None,
    survey: Any,
    saliency: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Merge the n slices of a segment; see `prune_slices`, whose arguments and result it has.

    Raises:
        ValueError: The merger returned something else than `vtc.SegmentMerger.condense` documents.
    """
    label = label_of("merger", call.merger)
    features = torch.cat([patches, *extra], dim=-1).flatten(0, 1)
    rows, indices = [], []
    for keep, weights in _condensed(call, patches, saliency, query, counts, survey):
        if weights.shape != (len(keep), len(features)):
            raise ValueError(
                f"expected {label} to weight [{len(keep)}, {len(features)}] tokens, got "
                f"{list(weights.shape)}"
            )
        exact = torch.promote_types(weights.dtype, features.dtype)
        rows.append((weights.to(exact) @ features.to(exact)).to(features))
        indices.append(keep)
    return rows, checked_indices(indices, patches, counts, label)


def checked_indices(
    indices: Any, patches: Tensor, counts: Sequence[int] | None, label: str
) -> list[Tensor]:
    """Return indices on the CPU, copied at once: a GPU would wait for each frame otherwise.

    Raises:
        ValueError: They are not in the form that `vtc.TokenPruner.keep` documents.
    """
    frames, most = patches.shape[:2]
    if not isinstance(indices, list) or len(indices) != frames:
        kind = type(indices).__name__
        raise ValueError(f"expected {label} to keep a list of {frames} tensors, got {kind}")
    for keep in indices:
        if not isinstance(keep, Tensor) or keep.dtype != torch.int64 or keep.ndim != 1:
            raise ValueError(f"expected {label} to keep int64 indices [T], got {keep!r}")
    kept = list(torch.split(torch.cat(indices).cpu(), [len(keep) for keep in indices]))
    for number, keep in enumerate(kept):
        inside = not len(keep) or bool(keep[0] >= 0) and bool(keep[-1] < most)
        if not inside or bool((keep.diff() <= 0).any()):
            raise ValueError(
                f"expected {label} to keep ascending, unique indices from 0 to {most - 1}, got "
                f"{keep.tolist()}"
            )
        if counts is not None and len(keep) != counts[number]:
            raise ValueError(
                f"expected {label} to keep {counts[number]} tokens of a frame, got {len(keep)}"
            )
    return kept


def _with_extra(row: Tensor, weights: Any, extra: Sequence[Tensor], number: int) -> Tensor:
    """Append the merged extra features of one frame to its merged tokens."""
    deep = torch.cat([layer[number] for layer in extra], dim=-1)
    if weights is None:
        weights = deep.new_full((len(row), len(deep)), 1 / len(deep))
    exact = weights.to(torch.promote_types(weights.dtype, deep.dtype))
    return torch.cat([row, (exact @ deep.to(exact)).to(row)], dim=-1)


def checked_tokens(merged: Any, patches: Tensor, label: str) -> list[Tensor]:
    """Return the merged tokens of each frame; copy those that would keep the patches alive."""
    frames, width = len(patches), patches.shape[-1]
    rows = merged if isinstance(merged, (list, Tensor)) else None
    if (
        rows is None
        or len(rows) != frames
        or any(row.ndim != 2 or row.shape[1] != width for row in rows)
    ):
        value = tuple(merged.shape) if isinstance(merged, Tensor) else type(merged).__name__
        raise ValueError(
            f"expected {label} to return a tensor [{frames}, T, {width}], or a list of {frames} "
            f"tensors [T_i, {width}], got {value}"
        )
    if isinstance(merged, Tensor):
        merged = _compact(merged)
    return [_compact(row) if isinstance(rows, list) else row for row in merged]


def _compact(tokens: Tensor) -> Tensor:
    """Copy tokens that are a view of a larger tensor, which they would keep alive."""
    held = 0 if tokens.is_meta else tokens.untyped_storage().nbytes()
    return tokens.clone() if held > 2 * tokens.nbytes and not tokens.requires_grad else tokens
