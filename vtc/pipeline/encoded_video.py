"""The tokens of all slices of a video, for parts that see the whole video before merging."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.token_budget import VideoPatches
from vtc.interfaces.token_pruner import TokenPruner
from vtc.pipeline.encode import encode_tokens
from vtc.pipeline.keeping import default_limit

if TYPE_CHECKING:
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.video_store import VideoStore

Chunk = tuple[Tensor, ...]
"""The numbers ``[c]`` of slices, their patches ``[c, P, D]``, and further features of them."""


class EncodedVideo:
    """The encoded slices of one video; the first ones stay in memory after the first pass.

    They take at most 1 GB or a tenth of the free memory. Nothing is kept while gradients are
    computed, so that these reach the vision tower.

    Args:
        call: The call.
        count: N.
        encode: Encodes slices ``[n]`` int64 in chunks.
        limit: The maximum number of bytes to keep; None for the default.
    """

    def __init__(
        self,
        call: Call,
        count: int,
        encode: Callable[[Tensor], Iterator[Chunk]],
        limit: int | None = None,
    ) -> None:
        self._call, self._count, self._encode = call, count, encode
        self._room = (default_limit() if limit is None else limit) * (not torch.is_grad_enabled())
        self._kept: list[Chunk] = []
        self._end = 0
        self._seen = False
        self.patches = VideoPatches(self._all)

    @property
    def kept(self) -> int:
        """The number of slices in memory, which start with the first slice."""
        return self._end

    def chunks(self, slices: Tensor) -> Iterator[Chunk]:
        """Yield some slices, ascending, in chunks."""
        for chunk in self._kept:
            rows = torch.isin(chunk[0], slices).nonzero().flatten()
            if len(rows):
                numbers, *features = (part[rows] for part in chunk)
                yield numbers, *(feature.to(self._call.device) for feature in features)
        missing = slices[slices >= self._end]
        if len(missing):
            yield from self._encode(missing)

    def _all(self) -> Iterator[Tensor]:
        """Yield the patches of all slices; keep the first ones in the first full pass."""
        keeping, self._seen = not self._seen, True
        for numbers, *features in self.chunks(torch.arange(self._count)):
            size = sum(feature.nbytes for feature in features)
            keeping &= size <= self._room
            if keeping:
                self._kept.append((numbers, *(feature.cpu() for feature in features)))
                self._room -= size
                self._end = int(numbers[-1]) + 1
            yield features[0]


def encoded_video(call: Call, feed: VideoFeed, store: VideoStore) -> EncodedVideo | None:
    """Return the encoded video if a part sees all of it before frames are merged; else None."""
    surveys = isinstance(call.merger, TokenPruner) and call.merger.uses_survey
    if not surveys and (call.budget is None or not call.budget.uses_patches):
        return None
    return EncodedVideo(call, len(feed.span), functools.partial(encode_tokens, call, feed, store))
