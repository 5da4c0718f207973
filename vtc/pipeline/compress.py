"""Compress one video: choose the keyframes, encode them, then encode, merge and drop the rest."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vtc.interfaces.token_pruner import TokenPruner
from vtc.pipeline.assemble import assemble_video
from vtc.pipeline.budget import Allocation, allocate
from vtc.pipeline.budget_merging import BudgetMerging
from vtc.pipeline.encode import as_merged, encode_merged, encode_other_frames, encode_whole
from vtc.pipeline.encoded_video import EncodedVideo, encoded_video
from vtc.pipeline.heat import HeatKeeper, HeatOfAll
from vtc.pipeline.merge import merge_slices, prune_slices, survey_video, whole_groups
from vtc.pipeline.references import References, no_references, references_of, with_previous
from vtc.pipeline.selection import embed_frames, select_for_queries

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.video_span import CompressedVideo, SliceFeatures
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.query import Query
    from vtc.pipeline.video_store import VideoStore

C = TypeVar("C")


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
        cells: ``[T_i]`` int64, the placeholders of a merged slice that its tokens stand for, by
            the slice's number, where that is known.
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
    cells: dict[int, Tensor] = field(default_factory=dict)

    @property
    def streams(self) -> Tensor:
        """``[s]`` int64, the frames to encode: those to merge, and some that pass by."""
        return _union([self.rest, self.references.passing])

    def keep(self, index: int, tokens: Tensor, cells: Tensor | None = None) -> None:
        """Keep the tokens of a slice, and their cells if each is one of its placeholders'."""
        self.tokens[index] = tokens
        if cells is not None:
            self.cells[index] = cells


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
    video = encoded_video(call, feed, store)
    seen = None if video is None else video.patches
    readings = [
        reading_of(call, own, query, chosen, allocate(call, own, chosen, embeddings, most, seen))
        for own, query, chosen in zip(feeds, queries, selections, strict=True)
    ]
    del embeddings
    if store.tower is not None:
        store.tower.fill(call, feed)
    encode_keyframes(call, feed, readings, store)
    if store.tokens is not None and store.tokens.is_possible:
        take_tokens(readings, tokens_of_all(call, feed, readings, store))
    else:
        merge_frames(call, feed, readings, store, video)
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
            one.cells,
        )
        for one in readings
    ]


def reading_of(
    call: Call, feed: VideoFeed, query: Query, selection: Selection, allocation: Allocation | None
) -> Reading:
    """Return how a query reads a video, before anything is encoded."""
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
    return Reading(
        feed=feed,
        query=query,
        selection=selection,
        is_keyframe=is_keyframe,
        rest=rest,
        references=references_of(call, rest, keyframes, is_keyframe),
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


def encode_keyframes(
    call: Call, feed: VideoFeed, readings: Sequence[Reading], store: VideoStore
) -> None:
    """Give each reading the ``[M, D]`` of its keyframes and the patches of its references.

    References are projected as merged frames are (Eq. 7 of ViLAMP compares patches in one space).
    """
    keyframes = _union([one.is_keyframe.nonzero().flatten() for one in readings])
    references = _union([one.references.distinct for one in readings])
    by_slice: dict[int, Tensor] = {}
    for slices, features in encode_whole(call, feed, call.model, keyframes, store, "keyframes"):
        if call.connector is None:
            _collect(by_slice, slices, as_merged(call, features), references)
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
    for slices, features in encode_merged(call, feed, numbers, store, "references"):
        _collect(by_slice, slices, features, references)
    for one in readings:
        distinct = one.references.distinct.tolist()
        if distinct:
            one.references.patches = torch.stack([by_slice[number] for number in distinct])


def merge_frames(
    call: Call,
    feed: VideoFeed,
    readings: Sequence[Reading],
    store: VideoStore,
    video: EncodedVideo | None = None,
) -> None:
    """Give each reading the merged tokens ``[T, D]`` of its other frames."""
    streams = _union([one.streams for one in readings])
    if video is None or not isinstance(call.merger, TokenPruner):
        encoded = encode_other_frames(call, feed, store, streams)
    else:
        encoded = video.chunks(streams)
    if call.merger.uses_reference and call.merger.uses_previous_frame:
        encoded = with_previous(encoded)
    chunks = _fan_out(encoded, len(readings))
    survey = None if video is None else survey_video(call, video.patches)
    steps = [_merge(call, one, own, survey) for one, own in zip(readings, chunks, strict=True)]
    for _ in itertools.zip_longest(*steps):  # in step, so that few chunks are alive
        pass


def tokens_of_all(
    call: Call, feed: VideoFeed, readings: Sequence[Reading], store: VideoStore
) -> Mapping[str, Tensor]:
    """Return what all frames become: from the cache, or stored in it.

    Returns:
        ``tokens`` ``[N, T, D]``; ``cells`` ``[N, T]`` int64 if they are known.
    """
    stored = store.tokens
    if stored is not None and stored.tensors is not None:
        return {name: value.to(call.device) for name, value in stored.tensors.items()}
    every = torch.arange(len(feed.span))
    whole = replace(
        readings[0],
        rest=every,
        references=no_references(every),
        tokens=[torch.empty(0)] * len(every),
        cells={},
        heat=HeatOfAll([one.heat for one in readings]),
    )
    merge_frames(call, feed, [whole], store)
    merged = {"tokens": torch.stack(whole.tokens)}
    if whole.cells:
        merged["cells"] = torch.stack([whole.cells[number] for number in every.tolist()])
    if stored is not None:
        stored.store(merged)
    return merged


def take_tokens(readings: Sequence[Reading], merged: Mapping[str, Tensor]) -> None:
    """Give each reading the merged tokens of its other frames, as `tokens_of_all` returns them."""
    cells = merged.get("cells")
    for one in readings:
        for index in one.rest.tolist():
            one.keep(index, merged["tokens"][index], None if cells is None else cells[index])


def _merge(
    call: Call, reading: Reading, encoded: Iterable[tuple[Tensor, ...]], survey: Any
) -> Iterator[None]:
    """Merge the frames of a reading, chunk by chunk of all that is encoded."""
    own = (_only(chunk, reading.rest) for chunk in encoded)
    allocation, within = reading.allocation, None
    if allocation is not None and not isinstance(call.merger, TokenPruner):
        within = BudgetMerging(call, reading.feed.span, allocation.tokens, reading.keep)
    for slices, frames, *others in whole_groups(own, call.merger.frames_together):
        with call.recorder.stage("merging") as stage:
            at = torch.searchsorted(reading.rest, slices)
            reference, has_reference = reading.references.of(at, frames)
            if call.merger.uses_reference and call.merger.uses_previous_frame:
                *others, before, follows = others
                follows = follows.to(frames.device)
                reference = torch.where(follows[:, None, None], before, reference)
                has_reference |= follows
            given = (frames, reference, has_reference, reading.query, others)
            reading.heat.keep(slices, *given[:-1])
            if within is not None:
                stage.bytes += within.merge(slices, *given)
            else:
                stage.bytes += _merge_alone(call, reading, survey, slices, *given)
        yield


def _merge_alone(
    call: Call,
    reading: Reading,
    survey: Any,
    slices: Tensor,
    frames: Tensor,
    reference: Tensor,
    has_reference: Tensor,
    query: Query,
    extra: Sequence[Tensor],
) -> int:
    """Merge or prune slices, each as the merger or its budget says; return the tokens' bytes."""
    given = (call, frames, reference, has_reference, query, extra)
    cells: Sequence[Tensor | None] = [None] * len(slices)
    if isinstance(call.merger, TokenPruner):
        allocation = reading.allocation
        counts = None if allocation is None else allocation.tokens[slices].tolist()
        merged, kept = prune_slices(*given, counts, survey)
        if frames.shape[1] == reading.feed.span.slots.shape[1]:
            cells = kept
    else:
        merged = merge_slices(*given)
    for index, row, cell in zip(slices.tolist(), merged, cells, strict=True):
        reading.keep(index, row, cell)
    return sum(row.nbytes for row in merged)


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
