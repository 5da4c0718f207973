"""Compress one video: choose the keyframes, encode them, then encode, merge and drop the rest."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from vtc.interfaces.token_pruner import TokenPruner
from vtc.pipeline.assemble import assemble_video
from vtc.pipeline.budget import Allocation, allocate
from vtc.pipeline.encode import as_merged, encode_merged, encode_non_keyframes, encode_whole
from vtc.pipeline.encoded_video import EncodedVideo, encoded_video
from vtc.pipeline.heat import HeatKeeper, HeatOfAll
from vtc.pipeline.merge import survey_video
from vtc.pipeline.merge_pass import merge_pass
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
class QueryPass:
    """One query's pass over a video: its keyframes, and the tokens of all slices.

    Attributes:
        feed: The video, at its position in the query's row.
        selection: The keyframes.
        is_keyframe: ``[N]`` bool.
        rest: ``[n]`` int64, the frames to merge, ascending.
        references: The frames that they are compared with.
        tokens: ``[T_i, D]`` of each of the N slices, filled in by the pass.
        cells: ``[T_i]`` int64 by the number of a merged slice: the placeholders that its tokens
            take the positions of, if known.
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
        """``[s]`` int64, the frames to encode: those to merge, and references among the others."""
        return _union([self.rest, self.references.passing])

    def keep(self, index: int, tokens: Tensor, cells: Tensor | None = None) -> None:
        """Keep the tokens of a slice, and their cells if each token belongs to a placeholder."""
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

    The video is decoded and encoded once for all queries. Keyframes are encoded first, since
    non-keyframes are merged against the keyframe before them (or against the frames that the
    merger names). Non-keyframes go through the vision tower chunk by chunk, and only the merged
    tokens stay.

    Args:
        feeds: The same video, once for each query's row.
        queries: One for each feed.
        store: Cached embeddings and tokens of the video.
    """
    feed, *others = feeds
    for other in others:
        other.decoded = None  # counted once
    patches = store.patches
    selections, embeddings = select_keyframes(call, feed, queries, store)
    most = None if patches is None else patches.count
    video = encoded_video(call, feed, store)
    limits = (most, None if video is None else video.patches)
    passes = [
        make_pass(call, row, query, selection, allocate(call, row, selection, embeddings, *limits))
        for row, query, selection in zip(feeds, queries, selections, strict=True)
    ]
    del embeddings
    if store.tower is not None:
        store.tower.fill(call, feed)
    encode_keyframes(call, feed, passes, store)
    if store.tokens is not None and store.tokens.is_possible:
        copy_tokens(passes, merge_all_frames(call, feed, passes, store))
    else:
        merge_frames(call, feed, passes, store, video)
    for row in feeds:
        row.cache_uses = store.uses
    return [
        assemble_video(
            call,
            query_pass.feed,
            query_pass.query,
            query_pass.tokens,
            query_pass.is_keyframe,
            query_pass.selection,
            query_pass.heat.frames,
            query_pass.hidden,
            query_pass.allocation,
            query_pass.cells,
        )
        for query_pass in passes
    ]


def make_pass(
    call: Call, feed: VideoFeed, query: Query, selection: Selection, allocation: Allocation | None
) -> QueryPass:
    """Return the pass of a query over a video, before anything is encoded."""
    selection = selection if allocation is None else allocation.selection
    keyframes = selection.keyframes.cpu()
    is_keyframe = torch.zeros(len(feed.span), dtype=torch.bool)
    is_keyframe[keyframes] = True
    rest = (~is_keyframe).nonzero().flatten()
    if allocation is not None:
        is_keyframe = allocation.is_whole
        rest = (~is_keyframe & (allocation.tokens != 0)).nonzero().flatten()
    elif call.merger.tokens_per_frame == 0:
        rest = rest[:0]  # the merger drops these frames, so they need not be encoded
    shown = rest if allocation is None else rest[allocation.tokens[rest] <= 1]
    return QueryPass(
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
        feed.rgb_of if encoder is not patches else None,
    )
    if patches is not None and not patches.done:  # the selector used another encoder, or none
        embedded = embed_frames(patches, feed.rgb(), len(feed.span), call.recorder)
        if store.merging is not None:
            store.merging.store_embeddings(embedded)
    return selections, embeddings


def encode_keyframes(
    call: Call, feed: VideoFeed, passes: Sequence[QueryPass], store: VideoStore
) -> None:
    """Store the ``[M, D]`` of each pass's keyframes, and the patches of its references.

    References are projected as merged frames are (Eq. 7 of ViLAMP compares patches in one space).
    """
    keyframes = _union([query_pass.is_keyframe.nonzero().flatten() for query_pass in passes])
    references = _union([query_pass.references.distinct for query_pass in passes])
    by_slice: dict[int, Tensor] = {}
    for slices, features in encode_whole(call, feed, call.model, keyframes, store, "keyframes"):
        if call.connector is None:
            _collect(by_slice, slices, as_merged(call, features), references)
        rows = torch.cat([features.tokens, *features.extra], dim=-1)
        for index, row in zip(slices.tolist(), rows, strict=True):
            for query_pass in passes:
                if query_pass.is_keyframe[index]:
                    query_pass.tokens[index] = row
        if features.hidden is not None and not call.generating:
            for index, state in zip(slices.tolist(), features.hidden, strict=True):
                for query_pass in passes:
                    if query_pass.is_keyframe[index]:
                        query_pass.hidden.append(state)
    missing = [number for number in references.tolist() if number not in by_slice]
    numbers = torch.tensor(missing, dtype=torch.int64)
    for slices, features in encode_merged(call, feed, numbers, store, "references"):
        _collect(by_slice, slices, features, references)
    for query_pass in passes:
        distinct = query_pass.references.distinct.tolist()
        if distinct:
            query_pass.references.patches = torch.stack([by_slice[number] for number in distinct])


def merge_frames(
    call: Call,
    feed: VideoFeed,
    passes: Sequence[QueryPass],
    store: VideoStore,
    video: EncodedVideo | None = None,
) -> None:
    """Store the merged tokens ``[T, D]`` of each pass's non-keyframes."""
    streams = _union([query_pass.streams for query_pass in passes])
    if video is None or not isinstance(call.merger, TokenPruner):
        encoded = encode_non_keyframes(call, feed, store, streams)
    else:
        encoded = video.chunks(streams)
    if call.merger.uses_reference and call.merger.uses_previous_frame:
        encoded = with_previous(encoded)
    chunks = _fan_out(encoded, len(passes))
    survey = None if video is None else survey_video(call, video.patches)
    steps = [merge_pass(call, *pair, survey) for pair in zip(passes, chunks, strict=True)]
    for _ in itertools.zip_longest(*steps):  # in step, so that few chunks are alive
        pass


def merge_all_frames(
    call: Call, feed: VideoFeed, passes: Sequence[QueryPass], store: VideoStore
) -> Mapping[str, Tensor]:
    """Return the merged tokens of all frames: read from the cache, or computed and stored in it.

    Returns:
        ``tokens`` ``[N, T, D]``; ``cells`` ``[N, T]`` int64 if they are known.
    """
    stored = store.tokens
    if stored is not None and stored.tensors is not None:
        return {name: value.to(call.device) for name, value in stored.tensors.items()}
    every = torch.arange(len(feed.span))
    whole = replace(
        passes[0],
        rest=every,
        references=no_references(every),
        tokens=[torch.empty(0)] * len(every),
        cells={},
        heat=HeatOfAll([query_pass.heat for query_pass in passes]),
    )
    merge_frames(call, feed, [whole], store)
    merged = {"tokens": torch.stack(whole.tokens)}
    if whole.cells:
        merged["cells"] = torch.stack([whole.cells[number] for number in every.tolist()])
    if stored is not None:
        stored.store(merged)
    return merged


def copy_tokens(passes: Sequence[QueryPass], merged: Mapping[str, Tensor]) -> None:
    """Copy each pass's merged tokens from the ``[N, T, D]`` tokens of all frames."""
    cells = merged.get("cells")
    for query_pass in passes:
        for index in query_pass.rest.tolist():
            query_pass.keep(index, merged["tokens"][index], None if cells is None else cells[index])


def _fan_out(chunks: Iterator[C], count: int) -> list[Iterator[C]]:
    """Return ``count`` iterators over the same chunks; a chunk that all have read is freed.

    `itertools.tee` would keep up to 57 of them.
    """
    queues: list[deque[C]] = [deque() for _ in range(count)]

    def stream(queue: deque[C]) -> Iterator[C]:
        while True:
            if not queue:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    return
                for other in queues:
                    other.append(chunk)
                del chunk
            yield queue.popleft()

    return [stream(queue) for queue in queues]


def _union(numbers: Sequence[Tensor]) -> Tensor:
    """Return the distinct numbers, ascending."""
    return numbers[0] if len(numbers) == 1 else torch.unique(torch.cat(list(numbers)))


def _collect(
    by_slice: dict[int, Tensor], slices: Tensor, features: SliceFeatures, references: Tensor
) -> None:
    """Add the patches ``[P, D]`` of those slices that are references to ``by_slice``."""
    rows = torch.isin(slices, references).nonzero().flatten()
    # Index with numbers: a view would keep the whole chunk alive, a mask would wait for the GPU.
    kept = features.patches[rows.to(features.patches.device)]
    by_slice.update(zip(slices[rows].tolist(), kept, strict=True))
