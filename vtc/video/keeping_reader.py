"""A reader that keeps decoded frames, so that a second pass does not decode them again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtc.video.reader import Picture, Reader, VideoInfo


class KeepingReader:
    """Keeps the first frames that are read, as many as fit.

    Args:
        reader: The reader that decodes.
        room: The most bytes of kept frames.
    """

    in_memory = False

    def __init__(self, reader: Reader, room: int) -> None:
        self._reader, self._limit, self._room = reader, room, room
        self._kept: dict[int, Picture] = {}
        self._lock = Lock()  # two passes may be under way
        self.name = reader.name
        self.info: VideoInfo = reader.info
        self.times = reader.times
        self.warnings = reader.warnings

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        kept = self._kept.copy()
        new = np.array([p for p in positions.tolist() if p not in kept], dtype=np.int64)
        waiting = [kept[p] for p in positions.tolist() if p in kept]
        waiting.reverse()
        with closing(self._reader.read(new)) as pictures:
            for picture in pictures:
                while waiting and waiting[-1].position < picture.position:
                    yield waiting.pop()
                self._keep(picture)
                yield picture
        yield from reversed(waiting)

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process starts without frames; locks cannot be pickled.
        state = self.__dict__ | {"_kept": {}, "_room": self._limit}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def _keep(self, picture: Picture) -> None:
        with self._lock:
            if picture.position not in self._kept and picture.pixels.nbytes <= self._room:
                self._room -= picture.pixels.nbytes
                self._kept[picture.position] = picture

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._reader.decodable(positions)
