"""Compress one video: choose the keyframes, encode them, then encode, merge and drop the rest."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from vtc.interfaces.part import part_errors
from vtc.pipeline.assemble import assemble_video
from vtc.pipeline.budget import Allocation, allocate
from vtc.pipeline.budget_merging import BudgetMerging
from vtc.pipeline.encode import encode_slices, project_encoder_patches
from vtc.pipeline.heat import HeatKeeper, HeatOfAll
from vtc.pipeline.merge import merge_slices, whole_groups
from vtc.pipeline.selection import embed_frames, select_for_queries
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.encoders.encoder_patches import PatchKeeper
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.video_span import CompressedVideo, SliceFeatures
    from vtc.pipeline.caching import VideoStore
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.query import Query

C = TypeVar("C")


@dataclass
class References:
    """The frames that non-keyframes are compared with.

    Attributes:
        numbers: ``[n]`` int64, the reference of each non-keyframe; -1 for none.
        distinct: ``[R]`` int64, the different ones among them, ascending.
        patches: ``[R, P, D]``, the patches of ``distinct``; None where there are none.
    """

    numbers: Tensor
    distinct: Tensor
    patches: Tensor | None = None

    def of(self, places: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reference patches of some non-keyframes, and which of them have any.

        Args:
            places: ``[c]`` int64, their places in ``numbers``.
            like: ``[c, P, D]``, their own patches.

        Returns:
            ``[c, P, D]``, zeros where there is no reference, and ``[c]`` bool.
        """
        numbers = self.numbers[places]
        has_reference = (numbers >= 0).to(like.device)
        if self.patches is None:
            return torch.zeros_like(like), has_reference
        rows = torch.searchsorted(self.distinct, numbers.clamp(min=0))
        rows = rows.clamp(max=len(self.distinct) - 1)
        return self.patches[rows.to(self.patches.device)], has_reference


@dataclass
class Reading:
    """How one query reads a video.

    Attributes:
        feed: The video, where it stands in the query's row.
        selection: The keyframes.
        is_keyframe: ``[N]`` bool.
        rest: ``[n]`` int64, the frames to merge, ascending.
        references: The frames that they are compared with.
        tokens: ``[T_i, D]`` of each of the N slices, once they are known.
        hidden: The vision tower's last states ``[P', Dv]`` of the keyframes, for the result of
            ``forward``.
        allocation: The tokens of each slice; None without a budget.
    """

    feed: VideoFeed
    query: Query
    selection: Selection
    is_keyframe: Tensor
    rest: Tensor
    references: References
    tokens: list[Tensor]
    heat: HeatKeeper | HeatOfAll
    hidden: list[Tensor] = field(default_factory=list)
    allocation: Allocation | None = None


def compress_video(
    call: Call,
    feeds: Sequence[VideoFeed],
    queries: Sequence[Query],
    store: VideoStore,
) -> list[CompressedVideo]:
    """Turn one video into K*M + (N-K)*T + t token features for each query.

    The video is decoded and encoded once for all queries. Keyframes are encoded first, since the
    others are merged against the nearest one before them (or against other frames that the merger
    names). The rest goes through the vision tower chunk by chunk, and only the merged tokens stay.

    Args:
        feeds: The same video, once for each query's row.
        queries: One for each feed.
        store: What is known of the video already.
    """
    feed, *others = feeds
    for other in others:
        other.decoded = None  # counted once
    patches = store.patches
    selections, embeddings = select_keyframes(call, feed, queries, store)
    most = None if patches is None else patches.count
    readings = [
        _reading(call, own, query, chosen, allocate(call, own, chosen, embeddings, most))
        for own, query, chosen in zip(feeds, queries, selections, strict=True)
    ]
    del embeddings
    encode_keyframes(call, feed, readings, patches)
    if store.tokens is not None and store.tokens.is_possible:
        take_tokens(readings, tokens_of_all(call, feed, readings, store))
    else:
        merge_frames(call, feed, readings, patches)
    for each in feeds:
        each.cache_uses = store.uses
    return [
        assemble_video(
            call,
            one.feed,
            one.query,
            one.tokens,
            one.is_keyframe,
            one.selection,
            one.heat.frames,
            one.hidden,
            one.allocation,
        )
        for one in readings
    ]


def _reading(
    call: Call, feed: VideoFeed, query: Query, selection: Selection, allocation: Allocation | None
) -> Reading:
    selection = selection if allocation is None else allocation.selection
    keyframes = selection.keyframes.cpu()
    is_keyframe = torch.zeros(len(feed.span), dtype=torch.bool)
    is_keyframe[keyframes] = True
    rest = (~is_keyframe).nonzero().flatten()
    if allocation is not None:
        is_keyframe = allocation.is_whole
        rest = (~is_keyframe & (allocation.tokens != 0)).nonzero().flatten()
    elif call.merger.tokens_per_frame == 0:
        rest = rest[:0]  # the merged frames vanish, so they need not be encoded
    shown = rest if allocation is None else rest[allocation.tokens[rest] <= 1]
    numbers = reference_frames(call, feed, rest, keyframes)
    return Reading(
        feed=feed,
        query=query,
        selection=selection,
        is_keyframe=is_keyframe,
        rest=rest,
        references=References(numbers, torch.unique(numbers[numbers >= 0])),
        tokens=[torch.empty(0)] * len(feed.span),
        heat=HeatKeeper(call, feed.span, shown, selection),
        allocation=allocation,
    )


def select_keyframes(
    call: Call,
    feed: VideoFeed,
    queries: Sequence[Query],
    store: VideoStore,
) -> tuple[list[Selection], Tensor]:
    """Choose the keyframes of each query; keep the frame encoder's patches if they are merged.

    Returns:
        The selections, and the embeddings ``[N, d]``; ``[N, 0]`` if the selector uses none.
    """
    encoder: FrameEncoder = call.selector_encoder
    patches = store.patches
    if patches is not None and encoder is call.encoder:
        encoder = patches
    selections, embeddings = select_for_queries(
        call.selector,
        encoder,
        feed.rgb(),
        len(feed.span),
        feed.timestamps,
        [query.for_selector if query.text is not None else None for query in queries],
        call.recorder,
        call.selector_name,
        store.selection,
    )
    if patches is not None and not patches.done:  # the selector used another encoder, or none
        embedded = embed_frames(patches, feed.rgb(), len(feed.span), call.recorder)
        if store.merging is not None:
            store.merging.store_embeddings(embedded)
    return selections, embeddings


def reference_frames(call: Call, feed: VideoFeed, rest: Tensor, keyframes: Tensor) -> Tensor:
    """Return ``[n]`` int64, the frame that each of ``rest`` is compared with; -1 for none.

    Raises:
        ValueError: The merger returned something else.
    """
    if not call.merger.uses_reference:
        return torch.full_like(rest, -1)
    last = len(feed.span) - 1
    with part_errors(label_of("merger", call.merger)):
        references: Tensor = call.merger.reference_frames(rest, keyframes)
    fits = (
        isinstance(references, Tensor)
        and references.dtype == torch.int64
        and references.shape == rest.shape
        and bool(((references >= -1) & (references <= last)).all())
    )
    if not fits:
        raise ValueError(
            f"expected merger {call.merger_name!r} to return {len(rest)} reference frames, int64 "
            f"from 0 to {last} or -1 for none, got {references}"
        )
    return references


def encode_keyframes(
    call: Call, feed: VideoFeed, readings: Sequence[Reading], patches: PatchKeeper | None
) -> None:
    """Give each reading the ``[M, D]`` of its keyframes and the patches of its references.

    References are projected as merged frames are (Eq. 7 of ViLAMP compares patches in one space).
    """
    keyframes = _union([one.is_keyframe.nonzero().flatten() for one in readings])
    references = _union([one.references.distinct for one in readings])
    by_slice: dict[int, Tensor] = {}
    for slices, features in encode_slices(call, feed, call.model, keyframes, "keyframes"):
        if call.connector is None:
            _collect(by_slice, slices, features, references)
        rows = torch.cat([features.tokens, *features.extra], dim=-1)
        for index, row in zip(slices.tolist(), rows, strict=True):
            for one in readings:
                if one.is_keyframe[index]:
                    one.tokens[index] = row
        if features.hidden is not None and not call.generating:
            for index, state in zip(slices.tolist(), features.hidden, strict=True):
                for one in readings:
                    if one.is_keyframe[index]:
                        one.hidden.append(state)
    missing = [number for number in references.tolist() if number not in by_slice]
    numbers = torch.tensor(missing, dtype=torch.int64)
    for slices, features in encode_merged(call, feed, numbers, patches, "references"):
        _collect(by_slice, slices, features, references)
    for one in readings:
        distinct = one.references.distinct.tolist()
        if distinct:
            one.references.patches = torch.stack([by_slice[number] for number in distinct])


def encode_merged(
    call: Call, feed: VideoFeed, slices: Tensor, patches: PatchKeeper | None, what: str
) -> Iterator[tuple[Tensor, SliceFeatures]]:
    """Encode slices whose patches are merged or compared, as `encode_slices` does."""
    if patches is not None:
        return project_encoder_patches(call, patches, slices, what)
    return encode_slices(call, feed, call.merged_model, slices, what)


def merge_frames(
    call: Call, feed: VideoFeed, readings: Sequence[Reading], patches: PatchKeeper | None
) -> None:
    """Give each reading the merged tokens ``[T, D]`` of its other frames."""
    rest = _union([one.rest for one in readings])
    encoded = (
        (slices, features.patches, *features.extra)
        for slices, features in encode_merged(call, feed, rest, patches, "other frames")
    )
    streams = _fan_out(encoded, len(readings))
    steps = [_merge(call, one, stream) for one, stream in zip(readings, streams, strict=True)]
    for _ in itertools.zip_longest(*steps):  # in step, so that few chunks are alive
        pass


def tokens_of_all(
    call: Call, feed: VideoFeed, readings: Sequence[Reading], store: VideoStore
) -> Tensor:
    """Return the merged tokens ``[N, T, D]`` of all frames: from the cache, or stored in it."""
    stored = store.tokens
    if stored is not None and stored.tensors is not None:
        return stored.tensors["tokens"].to(call.device)
    every = torch.arange(len(feed.span))
    none = torch.full_like(every, -1)
    whole = replace(
        readings[0],
        rest=every,
        references=References(none, none[:0]),
        tokens=[torch.empty(0)] * len(every),
        heat=HeatOfAll([one.heat for one in readings]),
    )
    merge_frames(call, feed, [whole], store.patches)
    tokens = torch.stack(whole.tokens)
    if stored is not None:
        stored.store({"tokens": tokens})
    return tokens


def take_tokens(readings: Sequence[Reading], tokens: Tensor) -> None:
    """Give each reading the merged tokens of its other frames, of those ``[N, T, D]`` of all."""
    for one in readings:
        for index in one.rest.tolist():
            one.tokens[index] = tokens[index]


def _merge(call: Call, reading: Reading, encoded: Iterable[tuple[Tensor, ...]]) -> Iterator[None]:
    """Merge the frames of a reading, chunk by chunk of all that is encoded."""
    own = (_only(chunk, reading.rest) for chunk in encoded)
    within = None
    if reading.allocation is not None:
        tokens = reading.allocation.tokens
        within = BudgetMerging(call, reading.feed.span, tokens, reading.tokens.__setitem__)
    for slices, frames, *extra in whole_groups(own, call.merger.frames_together):
        with call.recorder.stage("merging") as stage:
            at = torch.searchsorted(reading.rest, slices)
            reference, has_reference = reading.references.of(at, frames)
            given = (frames, reference, has_reference, reading.query, extra)
            reading.heat.keep(slices, *given[:-1])
            if within is not None:
                stage.bytes += within.merge(slices, *given)
            else:
                merged = merge_slices(call, *given)
                for index, row in zip(slices.tolist(), merged, strict=True):
                    reading.tokens[index] = row
                    stage.bytes += row.nbytes
        yield


def _fan_out(chunks: Iterator[C], count: int) -> list[Iterator[C]]:
    """Give several readers the same chunks; a chunk that all have read is not kept.

    `itertools.tee` keeps up to 57 items.
    """
    waiting: list[deque[C]] = [deque() for _ in range(count)]

    def stream(own: deque[C]) -> Iterator[C]:
        while True:
            if not own:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    return
                for each in waiting:
                    each.append(chunk)
                del chunk
            yield own.popleft()

    return [stream(own) for own in waiting]


def _only(chunk: tuple[Tensor, ...], wanted: Tensor) -> tuple[Tensor, ...]:
    """Return those slices of a chunk that are wanted."""
    rows = torch.isin(chunk[0], wanted).nonzero().flatten()
    if len(rows) == len(chunk[0]):
        return chunk
    return tuple(part[rows.to(part.device)] for part in chunk)


def _union(numbers: Sequence[Tensor]) -> Tensor:
    """Return the different numbers, ascending."""
    return numbers[0] if len(numbers) == 1 else torch.unique(torch.cat(list(numbers)))


def _collect(
    by_slice: dict[int, Tensor], slices: Tensor, features: SliceFeatures, references: Tensor
) -> None:
    """Put the patches ``[P, D]`` of the slices that are references into ``by_slice``."""
    rows = torch.isin(slices, references).nonzero().flatten()
    # Chosen by their numbers: a view would keep the whole chunk alive, a mask would wait for a GPU.
    kept = features.patches[rows.to(features.patches.device)]
    by_slice.update(zip(slices[rows].tolist(), kept, strict=True))
