"""A reader that remembers what it has read, so that a second pass need not decode it again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from vtc.video.reader import Picture, Reader, VideoInfo


class KeepingReader:
    """Keeps the first frames it is asked for, as many as fit.

    Args:
        reader: What reads the others.
        room: Bytes of the frames that are kept, at most.
    """

    in_memory = False

    def __init__(self, reader: Reader, room: int) -> None:
        self._reader, self._room = reader, room
        self._kept: dict[int, Picture] = {}
        self._lock = Lock()  # two passes may be under way
        self.name = reader.name
        self.info: VideoInfo = reader.info
        self.times = reader.times
        self.warnings = reader.warnings

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        kept = self._kept.copy()
        new = np.array([p for p in positions.tolist() if p not in kept], dtype=np.int64)
        known = [kept[p] for p in positions.tolist() if p in kept]
        known.reverse()
        with closing(self._reader.read(new)) as pictures:
            for picture in pictures:
                while known and known[-1].position < picture.position:
                    yield known.pop()
                self._keep(picture)
                yield picture
        yield from reversed(known)

    def _keep(self, picture: Picture) -> None:
        with self._lock:
            if picture.position not in self._kept and picture.pixels.nbytes <= self._room:
                self._room -= picture.pixels.nbytes
                self._kept[picture.position] = picture

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._reader.decodable(positions)
