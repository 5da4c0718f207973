"""The interface of readers, and the metadata and frames that they return."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class VideoInfo:
    """Metadata of a video.

    Attributes:
        width, height: The size of a frame after rotation, in pixels.
        duration: Seconds from the first shown frame to the end of the last one.
        frame_count: The number of shown frames.
        native_fps: ``frame_count / duration``, the mean rate in frames per second.
        codec: FFmpeg's name of the decoder; ``"array"`` for frames in memory.
        container: FFmpeg's name of the file format; ``"memory"`` for frames in memory.
        rotation: Degrees by which stored frames are rotated counter-clockwise for display.
        key_interval: The longest time between two key frames in seconds, which determines the
            cost of random access.
        open_gop: Whether frames that are shown before a key frame are stored after it.
        trimmed: Whether the file holds frames that its edit list hides.
        square_pixels: Whether the stored pixels are square; otherwise frames are resized.
        variable_rate: Whether some frame lasts over 1.5 times as long as the median frame.
    """

    width: int
    height: int
    duration: float
    frame_count: int
    native_fps: float
    codec: str
    container: str
    rotation: int = 0
    key_interval: float = 0.0
    open_gop: bool = False
    trimmed: bool = False
    variable_rate: bool = False
    square_pixels: bool = True


class Picture(NamedTuple):
    """One decoded frame.

    Attributes:
        position: The frame's number among the shown frames of the video, from 0.
        pixels: ``[H, W, 3]`` uint8 RGB, after rotation.
        intact: False if the decoder guessed damaged parts.
    """

    position: int
    pixels: NDArray[np.uint8]
    intact: bool


class Reader(Protocol):
    """Reads the frames of one video by their position in order of presentation."""

    name: str
    info: VideoInfo
    times: NDArray[np.float64]
    """``[frame_count]`` seconds, strictly ascending from 0."""
    warnings: list[str]
    in_memory: bool
    """True: frames need no decoding, so no thread prefetches them."""

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        """Yield the frames at ``positions``, ``[n]`` ascending, except those it cannot decode."""

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return ``[n]`` bool, whether each of ``positions`` (ascending) can be decoded."""
