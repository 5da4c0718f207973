"""The output of the vision tower for all slices of a video, in its cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.cache.sizes import size_text
from vtc.cache.video import TOWER_OUTPUT, EntryWriter
from vtc.cache.writing import CacheError
from vtc.interfaces.video_adapter import VideoAdapter
from vtc.pipeline.cache_keys import tower_key
from vtc.pipeline.caching import NOT_STORED, StoredTensors
from vtc.pipeline.encode import run_tower
from vtc.pipeline.report import CacheUse
from vtc.pipeline.saliency import joined, split_exactly, tower_with_saliency

if TYPE_CHECKING:
    from vtc.interfaces.video_span import SliceFeatures
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed


class StoredTower(StoredTensors):
    """The projector's inputs for all slices of a video, bfloat16, mapped into memory.

    Args:
        call: The call, which computes no gradients.
        feed: A video with a cache.

    Raises:
        ValueError: The adapter does not separate the tower from the projector.
    """

    def __init__(self, call: Call, feed: VideoFeed) -> None:
        if type(call.adapter).tower is VideoAdapter.tower:
            raise ValueError(
                f"cache_tower=True needs an adapter with tower() and project(), which "
                f"{type(call.adapter).__name__} does not define; open the video without it"
            )
        if feed.source is None:
            raise ValueError("expected a video with a cache, got tensors of a processor")
        key = tower_key(call, feed)
        super().__init__(feed.source, TOWER_OUTPUT, key, call.recorder, mapped=True)

    def fill(self, call: Call, feed: VideoFeed) -> None:
        """Run the vision tower on all slices, unless its output is in the cache.

        If the cache cannot be written, warns and leaves `tensors` None.
        """
        if self.tensors is not None or self._key is None:
            return
        try:
            size = self._compute(call, feed, self._key)
        except CacheError as error:  # a full disk is no reason to give no answer
            self._recorder.warn(str(error))
            self.use = CacheUse(TOWER_OUTPUT, False, NOT_STORED)
            return
        note = f"computed and stored ({size_text(size)}), since {self.use.note}"
        self.use = CacheUse(TOWER_OUTPUT, False, note)
        self.tensors = self._cache.find(TOWER_OUTPUT, self._key, mapped=True).tensors

    def _compute(self, call: Call, feed: VideoFeed, key: Any) -> int:
        count, writer = len(feed.span), None

        def tower(pixels: dict[str, Tensor]) -> tuple[Tensor, ...]:
            if not call.uses_saliency:
                return call.adapter.tower(call.model, pixels)
            *states, saliency = tower_with_saliency(call.adapter, call.model, pixels)
            return *states, split_exactly(saliency)  # the cache holds bfloat16

        try:
            for numbers, states in run_tower(call, feed, torch.arange(count), "to cache", tower):
                rows = {_name(place, state): state for place, state in enumerate(states)}
                with call.recorder.stage("cache") as stage:
                    if writer is None:
                        shapes = {name: (count, *row.shape[1:]) for name, row in rows.items()}
                        writer = EntryWriter(self._cache, TOWER_OUTPUT, key, shapes)
                        self._say_size(sum(2 * prod(shape) for shape in shapes.values()), count)
                    writer.write(int(numbers[0]), rows)
                    stage.bytes += sum(2 * row.numel() for row in rows.values())
            if writer is None:
                raise CacheError(f"{self._source.name} has no frames")
            with call.recorder.stage("cache"):
                return writer.finish(self._source.warnings)
        finally:
            if writer is not None:
                writer.discard()

    def _say_size(self, size: int, count: int) -> None:
        folder = str(self._cache.folder.path)
        message = (
            f"{self._source.name}: the vision tower's output of {count:,} slices takes "
            f"{size_text(size)} in the cache {folder!r}"
        )
        warnings.warn(message, stacklevel=2)

    def project(
        self, call: Call, model: Any, slices: Tensor, what: str
    ) -> Iterator[tuple[Tensor, SliceFeatures]]:
        """Project the output of the tower for some slices, one chunk at a time.

        Takes and yields the same as `encode_slices`, without ``hidden``.
        """
        if not len(slices):
            return
        for numbers in torch.split(slices, call.chunk_slices):
            with call.recorder.stage("cache") as stage:
                states = [
                    state[numbers].to(call.device, _dtype(name))
                    for name, state in sorted((self.tensors or {}).items())
                ]
                stage.bytes += sum(state.nbytes for state in states)
            saliency = joined(states.pop()) if call.uses_saliency else None
            with call.recorder.stage(f"projector ({what})") as stage:
                features = call.adapter.project(model, states).to(call.device)
                features = replace(features, saliency=saliency)
                stage.bytes += features.patches.nbytes
            yield numbers, features


def _name(place: int, state: Tensor) -> str:
    """Return a tensor's name in the file, which includes the dtype that the projector takes."""
    return f"{place:02d}.{str(state.dtype).removeprefix('torch.')}"


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name.partition(".")[2])
    return dtype
