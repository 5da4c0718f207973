"""Insert one video into another without storing either."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtc.interfaces.part import require
from vtc.video import VideoSource


class Splice:
    """A haystack with a needle in it: a `vtc.video.FrameSequence`, so ``VideoSource`` reads it.

    Both are read once, forwards and in chunks, however long they are. Frames of the needle are
    resized to the haystack's.

    Args:
        haystack: Anything that ``VideoSource`` takes, with its defaults.
        needle: Likewise.
        at: Number of haystack frames before the needle.

    Raises:
        ValueError: ``at`` is outside the haystack.

    >>> zeros, ones = np.zeros((3, 2, 2, 3), np.uint8), np.ones((1, 4, 4, 3), np.uint8)
    >>> VideoSource(Splice(zeros, ones, at=2)).frames()[:, 0, 0, 0]
    array([0, 0, 1, 0], dtype=uint8)
    """

    height: int
    width: int

    def __init__(self, haystack: Any, needle: Any, at: int) -> None:
        self._haystack, self._needle = VideoSource(haystack), VideoSource(needle)
        frames = len(self._haystack)
        require(0 <= at <= frames, "at", at, f"0 to {frames}, the frames of the haystack")
        self.at = at
        self.warnings: list[str] = []
        self.height, self.width = self._haystack.height, self._haystack.width

    def __len__(self) -> int:
        return len(self._haystack) + len(self._needle)

    def read(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames by ascending number, ``[H, W, 3]`` uint8 each."""
        since = indices - self.at
        of_needle = (since >= 0) & (since < len(self._needle))
        outside = np.where(since < 0, indices, indices - len(self._needle))[~of_needle]
        with (
            closing(_pictures(self._haystack, outside)) as haystack,
            closing(_pictures(self._needle, since[of_needle])) as needle,
        ):
            for is_needle in of_needle:
                yield self._resized(next(needle)) if is_needle else next(haystack)
                # In place, because the reader holds a reference to this list.
                self.warnings[:] = [*self._haystack.warnings, *self._needle.warnings]

    def _resized(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if frame.shape[:2] == (self.height, self.width):
            return frame
        image = Image.fromarray(frame).resize((self.width, self.height), Image.Resampling.BICUBIC)
        return np.asarray(image)


def _pictures(
    source: VideoSource, indices: NDArray[np.int64]
) -> Generator[NDArray[np.uint8], None, None]:
    # The reader of the splice prefetches already.
    with closing(source.chunks(indices.tolist(), prefetch=0)) as chunks:
        for chunk in chunks:
            yield from chunk.frames
