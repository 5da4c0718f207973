"""A reader that calls a function before each frame, which can end the pass by raising."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from vtc.video.reader import Picture, Reader, VideoInfo


class WatchedReader:
    """Calls a function before each frame is decoded.

    Args:
        reader: The reader that decodes.
        check: Called before each frame; an exception ends the pass.
    """

    def __init__(self, reader: Reader, check: Callable[[], None]) -> None:
        self._reader, self._check = reader, check
        self.name = reader.name
        self.info: VideoInfo = reader.info
        self.times = reader.times
        self.warnings = reader.warnings
        self.in_memory = reader.in_memory

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        self._check()
        with closing(self._reader.read(positions)) as pictures:
            for picture in pictures:
                yield picture
                self._check()

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._reader.decodable(positions)
