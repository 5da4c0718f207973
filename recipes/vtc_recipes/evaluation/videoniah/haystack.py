"""The videos of cases: pieces of files joined on the fly, with cached frame embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vtc.cache.folder import Lookup
from vtc.cache.video import FRAME_EMBEDDINGS, VideoCache
from vtc.cache.writing import CacheError
from vtc.video import VideoSource
from vtc_recipes.synthetic.splice import Concatenation, Piece, insert

if TYPE_CHECKING:
    from torch import Tensor

    from vtc.cache.entry import Key
    from vtc.encoders.base import FrameEncoder
    from vtc_recipes.evaluation.videoniah.cases import Clip, NiahCase

OPEN_FILES = 256
"""Number of file indexes to keep in memory."""
KEPT_FILES, KEPT_BYTES = 12, 64 * 2**20
"""Number of short videos whose frames are kept for repeats, and the maximum bytes of one."""


class Haystacks:
    """Opens the videos of cases.

    Args:
        folder: The folder of the files.
        size: Height and width of all frames in pixels; other frames get black bars.
        cache: The cache for the frame embeddings of each file in this size, as for ``VideoSource``;
            None for no cache.
    """

    def __init__(
        self, folder: Path, size: tuple[int, int], cache: str | bool | None = None
    ) -> None:
        self._folder, self._size, self._cache = folder, size, cache
        self._opened = lru_cache(OPEN_FILES)(self._open)
        self._whole = lru_cache(KEPT_FILES)(self._scale)

    def video(self, case: NiahCase) -> VideoSource:
        """Return the whole video of a case at one frame per second, read lazily.

        Raises:
            VideoError: A file cannot be read.
            ValueError: A file is shorter than when the cases were made.
        """
        haystack = [self._piece(clip) for clip in case.haystack]
        pieces = insert(haystack, self._piece(case.needle), case.start)
        joined = Concatenation(pieces, self._size)
        if self._cache is not None:
            joined.cache = pieces_cache(pieces)
        return VideoSource(joined)

    def embed(
        self,
        case: NiahCase,
        encoder: FrameEncoder,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Store the frame embeddings of all files of a case in the cache, unless they are there.

        Raises:
            VideoError: A file cannot be read.
            CacheError: The cache cannot be written.
            ValueError: The weights of the encoder are unknown.
        """
        from vtc.pipeline.indexing import index_video

        for name in dict.fromkeys(clip.video for clip in (case.needle, *case.haystack)):
            index_video(self._whole(name), encoder, 1, progress)

    def _piece(self, clip: Clip) -> Piece:
        return Piece(self._whole(clip.video), clip.first, clip.frames)

    def _open(self, name: str) -> VideoSource:
        return VideoSource(self._folder / name, cache=self._cache)

    def _scale(self, name: str) -> VideoSource:
        file = self._opened(name)
        scaled = _ScaledFile(file, self._size)
        if isinstance(file.cache, VideoCache):
            size = "x".join(map(str, self._size))
            scaled.cache = VideoCache(
                file.cache.folder,
                file.cache.path,
                {**file.cache.frames, "size": size},
                {**file.cache.sampling, "size": size},
            )
        return VideoSource(scaled)


class _ScaledFile(Concatenation):
    """All frames of a file in another size; those of a short file are kept in memory."""

    def __init__(self, source: VideoSource, size: tuple[int, int]) -> None:
        super().__init__([Piece(source, 0, len(source))], size, pad=True)
        self.name = source.name
        self._kept: list[NDArray[np.uint8]] = []

    def read(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        if len(self) * self.height * self.width * 3 > KEPT_BYTES:
            yield from super().read(indices)
            return
        if not self._kept:
            self._kept = list(super().read(np.arange(len(self))))
        for index in indices.tolist():
            yield self._kept[index]


def pieces_cache(pieces: Sequence[Piece]) -> PiecesCache:
    """Return the cache of joined pieces whose videos each have a cache."""
    caches = {piece.source.name: piece.source.cache for piece in pieces}
    first = next(cache for cache in caches.values() if cache is not None)
    return PiecesCache(first.folder, first.path, {}, {}, pieces=tuple(pieces))


@dataclass(frozen=True)
class PiecesCache(VideoCache):
    """The frame embeddings of joined pieces, from the caches of their videos.

    Attributes:
        pieces: Pieces of videos that each have a cache.
    """

    kinds: ClassVar[frozenset[str]] = frozenset((FRAME_EMBEDDINGS,))
    pieces: tuple[Piece, ...] = ()

    def find(self, kind: str, made_by: Key, mapped: bool = False) -> Lookup:
        """Return the embeddings of all frames, or a miss that names the file without them."""
        import torch

        every = int(made_by.get("every") or 1)
        lookups: dict[VideoSource, Lookup] = {}
        for source in dict.fromkeys(piece.source for piece in self.pieces):
            if source.cache is None:
                return Lookup(None, f"{source.name} has no cache")
            lookups[source] = lookup = source.cache.find(kind, {**made_by, "every": 1})
            if lookup.tensors is None:
                return Lookup(None, f"{source.name}: {lookup.reason}", lookup.is_damaged)
        rows: list[Tensor] = []
        for piece in self.pieces:
            tensors = lookups[piece.source].tensors or {}
            rows.append(tensors["embeddings"][piece.first : piece.first + piece.frames])
        lines = dict.fromkeys(line for lookup in lookups.values() for line in lookup.warnings)
        embeddings = torch.cat(rows)[::every].contiguous()
        return Lookup({"embeddings": embeddings}, warnings=tuple(lines))

    def store(
        self, kind: str, made_by: Key, tensors: dict[str, Tensor], warned: Sequence[str] = ()
    ) -> int:
        """Raise, because embeddings are stored per file, not for joined videos."""
        raise CacheError(f"the {kind} of joined videos are stored for each file alone")
