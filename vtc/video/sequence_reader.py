"""A reader of frames that an object returns by number, for example drawn on demand."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vtc.video.reader import Picture, VideoInfo


@runtime_checkable
class FrameSequence(Protocol):
    """A video without a file: an object that returns frames by number.

    ``VideoSource`` takes one in place of an array and reads it in chunks, so that a video of any
    length needs the memory of a few frames. Three attributes are optional: ``name``; ``warnings``,
    a list of sentences that may grow while frames are read and becomes part of the source's
    warnings; and ``cache``, a `vtc.cache.video.VideoCache` of all frames.
    """

    height: int
    width: int

    def __len__(self) -> int:
        """Return the number of frames."""

    def read(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames ``[height, width, 3]`` uint8 RGB at ``indices``, ascending."""


class SequenceReader:
    """Reads a `FrameSequence` of ``fps`` frames per second.

    Raises:
        ValueError: The sequence is empty, or ``fps`` is None.
    """

    in_memory = False

    def __init__(self, video: FrameSequence, fps: float | None) -> None:
        count = len(video)
        kind = type(video).__name__
        if fps is None:
            raise ValueError(
                f"expected fps to be a number for a {kind}, which has no timestamps, got None"
            )
        for side in ("height", "width"):
            if getattr(video, side) < 1:
                raise ValueError(f"expected {side} >= 1 of a {kind}, got {getattr(video, side)}")
        if count == 0:
            raise ValueError(f"the {kind} is empty; at least one frame is needed")
        self._video = video
        self.name = getattr(video, "name", f"{kind} of {count} frame{'s' if count > 1 else ''}")
        self.warnings: list[str] = getattr(video, "warnings", [])
        self.times: NDArray[np.float64] = np.arange(count) / fps
        self.info = VideoInfo(
            width=video.width,
            height=video.height,
            duration=count / fps,
            frame_count=count,
            native_fps=fps,
            codec="sequence",
            container="memory",
        )

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        shape = (self.info.height, self.info.width, 3)
        frames = self._video.read(positions)
        for position, frame in zip(positions.tolist(), frames, strict=True):
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(
                    f"{self.name}: frame {position} has shape {list(frame.shape)} and dtype "
                    f"{frame.dtype}; it must be {list(shape)} uint8"
                )
            yield Picture(position, frame, True)

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(positions), dtype=bool)
