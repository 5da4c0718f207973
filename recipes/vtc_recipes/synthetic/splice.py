"""Join pieces of videos into one without storing it, such as a needle in a haystack."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vtc.cache.video import VideoCache
from vtc.interfaces.part import require
from vtc.video import VideoSource


@dataclass(frozen=True)
class Piece:
    """Consecutive samples of a video.

    Attributes:
        source: The video.
        first: Its first sample in the piece.
        frames: Number of samples, at least 1.

    Raises:
        ValueError: The video has fewer samples.
    """

    source: VideoSource
    first: int
    frames: int

    def __post_init__(self) -> None:
        available, end = len(self.source), self.first + self.frames
        if self.first < 0 or self.frames < 1 or end > available:
            raise ValueError(
                f"expected frames {self.first} to {end - 1} in {self.source.name}, which has "
                f"{available}"
            )


class Concatenation:
    """Pieces one after another: a `vtc.video.FrameSequence`, so ``VideoSource`` reads it.

    Each piece is read forwards and in chunks, however long it is.

    Args:
        pieces: At least one.
        size: Height and width of all frames in pixels; those of the first piece by default.
        pad: Keep the shape of pictures of another size and add black bars; else stretch them.
    """

    height: int
    width: int
    cache: VideoCache | None = None

    def __init__(
        self, pieces: Sequence[Piece], size: tuple[int, int] | None = None, pad: bool = False
    ) -> None:
        require(len(pieces) > 0, "pieces", pieces, "at least one piece")
        first = pieces[0].source
        self.pieces = tuple(pieces)
        self.height, self.width = size or (first.height, first.width)
        self.warnings: list[str] = []
        self._pad = pad
        self._ends = np.cumsum([piece.frames for piece in pieces])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames by ascending number, ``[H, W, 3]`` uint8 each."""
        of_piece = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(of_piece).tolist():
            piece = self.pieces[number]
            start = self._ends[number] - piece.frames
            samples = indices[of_piece == number] - start + piece.first
            with closing(_pictures(piece.source, samples)) as pictures:
                for picture in pictures:
                    self._note_warnings()
                    yield self._fitted(picture)

    def _note_warnings(self) -> None:
        lines = dict.fromkeys(line for piece in self.pieces for line in piece.source.warnings)
        self.warnings[:] = lines  # in place, because the reader holds a reference to this list

    def _fitted(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if frame.shape[:2] == (self.height, self.width):
            return frame
        image, size = Image.fromarray(frame), (self.width, self.height)
        if self._pad:
            return np.asarray(ImageOps.pad(image, size, Image.Resampling.BICUBIC, (0, 0, 0)))
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


class Splice(Concatenation):
    """A haystack with a needle in it.

    Frames of the needle are resized to the haystack's.

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

    def __init__(self, haystack: Any, needle: Any, at: int) -> None:
        hay, inserted = VideoSource(haystack), VideoSource(needle)
        require(0 <= at <= len(hay), "at", at, f"0 to {len(hay)}, the frames of the haystack")
        self.at = at
        pieces = insert([Piece(hay, 0, len(hay))], Piece(inserted, 0, len(inserted)), at)
        super().__init__(pieces, (hay.height, hay.width))


def insert(pieces: Sequence[Piece], needle: Piece, at: int) -> list[Piece]:
    """Insert a piece after ``at`` frames of others, one of which it may cut in two."""
    joined: list[Piece] = []
    left = at
    for piece in pieces:
        before = min(max(left, 0), piece.frames)
        if before:
            joined.append(Piece(piece.source, piece.first, before))
        if 0 <= left < piece.frames:
            joined.append(needle)
        if before < piece.frames:
            joined.append(Piece(piece.source, piece.first + before, piece.frames - before))
        left -= piece.frames
    return joined if left < 0 else [*joined, needle]


def _pictures(
    source: VideoSource, indices: NDArray[np.int64]
) -> Generator[NDArray[np.uint8], None, None]:
    # The reader of the concatenation prefetches already.
    with closing(source.chunks(indices.tolist(), prefetch=0)) as chunks:
        for chunk in chunks:
            yield from chunk.frames
