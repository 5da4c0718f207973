"""Count the costs of reading a video of any length, without weights and within seconds.

The frame encoder and the vision tower run on one chunk of frames, since every chunk costs the same.
Selection, prefill and two steps of decoding run at their full length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vtc.interfaces.segment_merger import SegmentMerger
from vtc.interfaces.token_pruner import TokenPruner
from vtc.interfaces.video_span import SliceFeatures
from vtc.pipeline.budget import require_mergeable
from vtc.pipeline.connector import PatchConnector
from vtc.pipeline.feed import ENCODER_CHUNK
from vtc.pipeline.kv_cache import CACHE_NAME, returned_cache
from vtc.plugins.registry import label_of
from vtc.profiler.counters import MultiplyAccumulates
from vtc.profiler.counting import Cost, counting
from vtc.profiler.stages import (
    CONNECTOR,
    DECODE,
    ENCODER,
    KEYFRAMES,
    MERGING,
    OTHERS,
    PREFILL,
    SELECTION,
    TOKENS,
    LengthProfile,
    StageProfile,
    stage,
)
from vtc.profiler.subject import Subject, gives_patches

T = TypeVar("T")
_SEGMENT = 16
"""The number of frames of a segment, as in the tables of costs."""


def count(
    subject: Subject, frames: int, keyframes: int | None = None, prompt: int | None = None
) -> LengthProfile:
    """Count every stage of reading ``frames`` frames.

    Args:
        subject: The model and the parts.
        frames: N, at least 1.
        keyframes: The number of keyframes; None: the number that the selector chooses for random
            embeddings.
        prompt: The number of tokens that the language model reads; None: those of the video plus
            ``subject.text_tokens``.

    Raises:
        ValueError: ``frames`` is less than 1.
    """
    if frames < 1:
        raise ValueError(f"expected frames >= 1, got {frames}")
    slices = -(-frames // subject.adapter.frames_per_slice)
    counter = _Counter(subject, frames, slices)
    selecting, keys = counter.selection(keyframes)
    compressing, features = counter.compression(keys)
    video = features.tokens + subject.adapter.tail_length()
    reading = counter.language_model(prompt or video + subject.text_tokens, features.bytes)
    stages = (counter.decoding(), *selecting, *compressing, *reading)
    return LengthProfile(frames, keys, stages, counter.stock(), fast_path(subject, frames, keys))


def fast_path(subject: Subject, frames: int, keyframes: int) -> StageProfile | None:
    """Count everything up to the first token on the fast path (merging the encoder's patches).

    Returns:
        None if the subject uses the fast path already, the frame encoder has no patches, or the
        selector names an encoder.
    """
    encoder = subject.encoder if subject.selector.encoder is None else None
    if subject.fast_path or encoder is None or not gives_patches(encoder):
        return None
    return count(replace(subject, fast_path=True), frames, keyframes).first_token


class _Features:
    """A compressed video before prefill: its tokens, and their bytes."""

    def __init__(self, tokens: int, size: float) -> None:
        self.tokens, self.bytes = tokens, size


class _Counter:
    """Counts the stages of one length."""

    def __init__(self, subject: Subject, frames: int, slices: int) -> None:
        self.subject, self.frames, self.slices = subject, frames, slices

    def decoding(self) -> StageProfile:
        """Count the decoding of one frame per slice for the encoder, and of all for the tower."""
        subject = self.subject
        frame = subject.size[0] * subject.size[1] * 3
        encodes = subject.selector.uses_embeddings or subject.fast_path
        read = self.frames + (self.slices if encodes else 0)
        chunk = min(self.frames, ENCODER_CHUNK)
        cost = Cost(bytes_moved=float(frame * read), peak_memory=float(frame * chunk))
        return stage(DECODE, self.frames, cost)

    def selection(self, keyframes: int | None) -> tuple[list[StageProfile], int]:
        """Count the frame encoder and the selector; also return the number of keyframes."""
        selector, encoder = self.subject.selector, self.subject.encoder
        encoding, embeddings, query = Cost(), torch.empty(self.slices, 0), None
        if encoder is not None and (selector.uses_embeddings or self.subject.fast_path):
            encoding, width = self._encoder_cost(encoder)
            generator = torch.Generator().manual_seed(0)
            embeddings = torch.randn(self.slices, width, generator=generator)
            embeddings = nn.functional.normalize(embeddings, dim=-1)
            query = nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
        held = embeddings.nbytes
        with counting() as selecting, MultiplyAccumulates() as macs:  # type: ignore[no-untyped-call]
            times = torch.arange(self.slices, dtype=torch.float64)
            selection = selector.select(embeddings, query if selector.uses_query else None, times)
        selecting.flops = 2 * macs.count
        keys = len(selection.keyframes) if keyframes is None else min(keyframes, self.slices)
        # The embeddings of all chunks are concatenated at the end, so they exist twice.
        encoding = replace(encoding, peak_memory=max(encoding.peak_memory, held))
        held += self.patches_kept
        return [
            stage(ENCODER, len(embeddings) if embeddings.numel() else 0, encoding, held=held),
            stage(SELECTION, keys, selecting, held=held),
        ], keys

    @property
    def patches_kept(self) -> int:
        """The bytes of the frame encoder's patches of all frames, kept on the fast path."""
        if not self.subject.fast_path:
            return 0
        _, (_, patches) = self._encoder_chunk(1)
        return self.slices * prod(patches) * int(self.subject.model.dtype.itemsize)

    def _encoder_cost(self, encoder: Any) -> tuple[Cost, int]:
        """Return the cost of all frames and of the query, and the width of an embedding."""

        def embed_query() -> Cost:
            with counting() as cost:
                encoder.encode_text("a question")
            return cost

        cost, (width, _) = self._in_chunks(self.slices, ENCODER_CHUNK, self._encoder_chunk)
        if self.subject.selector.uses_query:
            cost = cost.then(self._once(("text",), embed_query))
        return cost, width

    def _encoder_chunk(self, frames: int) -> tuple[Cost, tuple[int, tuple[int, ...]]]:
        """Return the cost of one chunk, d, and on the fast path (P, C) of the patches."""
        encoder: Any = self.subject.encoder
        shape, device = (frames, *self.subject.size, 3), getattr(encoder, "_device", "cpu")
        fast = self.subject.fast_path

        def encode() -> tuple[Cost, tuple[int, tuple[int, ...]]]:
            with counting() as cost:
                pictures = torch.zeros(shape, dtype=torch.uint8, device=device)
                if fast:
                    embeddings, patches = encoder.encode_patches(pictures)
                else:
                    embeddings, patches = encoder.encode_frames(pictures), pictures[:, :0]
            return cost, (int(embeddings.shape[-1]), tuple(patches.shape[1:]))

        return self._once(("encoder", frames, fast), encode)

    def compression(self, keys: int) -> tuple[list[StageProfile], _Features]:
        """Count the vision tower on keyframes and non-keyframes, and the merger."""
        subject, rest = self.subject, self.slices - keys
        merger = subject.merger
        if subject.max_tokens is not None:
            require_mergeable(merger, label_of("merger", merger))
        merged_slices = rest if merger.tokens_per_frame else 0  # dropped frames are not encoded
        key_cost, (key_features, _) = self._tower(keys)
        if subject.fast_path:
            what, merged_from = CONNECTOR, self._connector_chunk
        else:
            what, merged_from = OTHERS, self._tower_chunk
        rest_cost, (features, pixels) = self._in_chunks(merged_slices, subject.chunk, merged_from)
        if isinstance(merger, TokenPruner):
            features = replace(features, dense=None)
        kept, (own, dense) = _held(key_features)[0], _held(features)
        patches = features.patches.shape[1]
        merging, tokens, merged = self._merging(features) if merged_slices else (Cost(), 0.0, 0.0)
        # The keyframes' patches stay in memory while frames are merged.
        reference = keys * dense if merged_slices else 0.0
        before = keys * kept + reference + self.patches_kept
        # The chunks of patches are concatenated at the end, so they exist twice.
        key_cost = replace(key_cost, peak_memory=max(key_cost.peak_memory, reference))
        slots = key_features.tokens.shape[1]
        if subject.max_tokens is not None and merged_slices:
            left = max(0, subject.max_tokens - subject.adapter.tail_length() - keys * slots)
            share = min(left / merged_slices, slots)
            merged *= share / tokens
            tokens = share
        chunk = min(subject.chunk, merged_slices)
        after = before + merged_slices * merged
        # While a chunk is merged, its pixels, its features and its keyframes' patches are alive.
        alive = chunk * (own if features.dense is None else own + dense) + chunk * dense
        at_merging = after + (pixels + alive if merged_slices else 0.0)
        merged_tokens = round(merged_slices * tokens)
        return [
            stage(KEYFRAMES, keys * slots, key_cost, held=before, in_table_5=True),
            stage(what, merged_slices * patches, rest_cost, held=after, in_table_5=True),
            stage(MERGING, merged_tokens, merging.times(merged_slices), held=at_merging),
        ], _Features(int(keys * slots + merged_tokens), keys * kept + merged_slices * merged)

    def _tower(self, slices: int) -> tuple[Cost, Any]:
        """Count the vision tower and the projector on some slices.

        Returns:
            The cost; the features of a chunk, and the bytes of its pixels.
        """
        return self._in_chunks(slices, self.subject.chunk, self._tower_chunk)

    def _tower_chunk(self, slices: int) -> tuple[Cost, Any]:
        subject = self.subject
        count = slices * subject.adapter.frames_per_slice
        frames = torch.zeros(count, *subject.size, 3, dtype=torch.uint8)
        pixels = subject.adapter.preprocess(subject.processor, frames, self.frames)

        def encode() -> tuple[Cost, Any]:
            with counting() as cost:
                moved = {
                    name: value.to("meta") if value.is_floating_point() else value
                    for name, value in pixels.items()
                }
                features = subject.adapter.encode(subject.model, moved)
            return cost, (features, sum(value.nbytes for value in moved.values()))

        # Some families resize frames to a smaller size in longer videos.
        sizes = tuple(tuple(value.shape) for value in pixels.values())
        return self._once(("vision tower", slices, sizes), encode)

    def _connector_chunk(self, slices: int) -> tuple[Cost, Any]:
        """Count the connector, which replaces the vision tower on the fast path."""
        _, (_, (patches, width)) = self._encoder_chunk(1)
        table = self.subject.model.get_input_embeddings().weight

        def project() -> tuple[Cost, Any]:
            connector = PatchConnector(width, table.shape[-1]).to("meta", table.dtype)
            kept = torch.empty(slices, patches, width, dtype=table.dtype, device="meta")
            with counting() as cost:
                features = SliceFeatures(connector(kept))
            return cost, (features, kept.nbytes)

        return self._once(("connector", slices), project)

    def _in_chunks(
        self, total: int, size: int, cost_of: Callable[[int], tuple[Cost, Any]]
    ) -> tuple[Cost, Any]:
        """Count ``total`` items in chunks; also return the result of the first chunk."""
        whole, left = divmod(total, size)
        first, result = cost_of(size if whole else max(left, 1))
        cost = first.times(whole)
        return (cost.then(cost_of(left)[0]) if left else cost), result

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """Return a cached count, or compute it."""
        cache = self.subject.chunks
        if key not in cache:
            cache[key] = make()
        value: T = cache[key]
        return value

    def _merging(self, features: Any) -> tuple[Cost, float, float]:
        """Count the merger on random frames; return the cost, tokens and bytes of one frame."""
        merger = self.subject.merger
        patches, width = features.patches.shape[1:]

        def merge() -> tuple[Cost, float, float]:
            count = max(2, merger.frames_together)
            if isinstance(merger, SegmentMerger):
                count = _SEGMENT
            generator = torch.Generator().manual_seed(0)
            shape, dtype = (count, patches, width), features.patches.dtype
            frames, reference = (torch.randn(shape, generator=generator).to(dtype) for _ in "12")
            query = self._query(width, generator).to(dtype)
            has_reference = torch.ones(count, dtype=torch.bool)
            with counting() as cost, MultiplyAccumulates() as macs:  # type: ignore[no-untyped-call]
                merged = (
                    merger.merge_segment(frames, frames.float().norm(dim=-1), query)
                    if isinstance(merger, SegmentMerger)
                    else merger(frames, reference, has_reference, query)
                )
            cost.flops = 2 * macs.count
            tokens = sum(len(row) for row in merged) / count
            extra = sum(part.shape[-1] for part in features.extra)  # deepstack is merged likewise
            return cost.times(1 / count), tokens, tokens * (width + extra) * frames.element_size()

        return self._once(("merging", patches, width), merge)

    def _query(self, width: int, generator: Any) -> Tensor:
        dim = self.subject.query_dim or width
        return nn.functional.normalize(torch.randn(dim, generator=generator), dim=0)

    def language_model(self, prompt: int, features: float) -> list[StageProfile]:
        """Count prefill and the later tokens, whose cost grows linearly."""
        # The features exist as a list of frames, as one tensor, and in chunks if the prompt is
        # read in chunks.
        in_chunks = prompt > (self.subject.prefill_chunk or prompt)
        held, new = (3 if in_chunks else 2) * features, self.subject.new_tokens - 1
        reading = ("language model", prompt, self.subject.prefill_chunk)
        filling, first, second = self._once(reading, lambda: self._read(prompt))
        growth = new * (new - 1) / 2
        steps = Cost(
            flops=new * first.flops + growth * (second.flops - first.flops),
            linear_macs=new * first.linear_macs,
            bytes_moved=new * first.bytes_moved + growth * (second.bytes_moved - first.bytes_moved),
            peak_memory=first.peak_memory if new else 0.0,
        )
        return [
            stage(PREFILL, prompt, filling, held=held, in_table_5=True),
            stage(TOKENS, new, steps, held=features if new else 0.0, in_table_5=True),
        ]

    def _read(self, prompt: int) -> tuple[Cost, Cost, Cost]:
        """Count the prompt, in chunks if the subject has any, and the two tokens after it."""
        model, size = self.subject.model, self.subject.prefill_chunk or prompt
        cost, state = Cost(), None
        for start in range(0, prompt, size):
            chunk, state = _forward(model, min(size, prompt - start), state)
            cost = cost.then(chunk)
        first, state = _forward(model, 1, state)
        second, _ = _forward(model, 1, state)
        return cost, first, second

    def stock(self) -> tuple[StageProfile, ...]:
        """Count the stock model, which encodes all frames in one call."""
        subject = self.subject
        cost, (features, _) = self._tower(min(subject.chunk, self.slices))
        share = self.slices / min(subject.chunk, self.slices)
        kept, _ = _held(features)
        encoding = replace(cost.times(share), peak_memory=share * cost.peak_memory)
        tokens = self.slices * features.tokens.shape[1] + subject.adapter.tail_length()
        prompt = tokens + subject.text_tokens
        reading = self._once(("stock", prompt), lambda: _forward(subject.model, prompt, None)[0])
        return (
            stage("stock vision tower", tokens, encoding, in_table_5=True),
            stage(
                "stock prefill",
                prompt,
                reading,
                held=self.slices * kept,
                in_table_5=True,
            ),
        )


def _held(features: Any) -> tuple[int, int]:
    """Return the bytes of a slice's tokens with their deepstack features, and of its patches."""
    count = len(features.tokens)
    kept = sum(part.nbytes for part in (features.tokens, *features.extra)) // count
    return kept, features.patches.nbytes // count


def _forward(model: Any, tokens: int, cache: Any) -> tuple[Cost, Any]:
    """Count the language model on some tokens and the last logits; also return the cache."""
    decoder, table = model.get_decoder(), model.get_input_embeddings().weight
    past = {} if cache is None else {CACHE_NAME: cache}
    with counting() as cost:
        embedded = torch.empty(1, tokens, table.shape[-1], dtype=table.dtype, device="meta")
        output = decoder(inputs_embeds=embedded, use_cache=True, **past)
        model.get_output_embeddings()(output.last_hidden_state[:, -1:])
    return cost, returned_cache(output)
