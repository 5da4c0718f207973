"""The interface of readers, and the facts and frames that they return."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video.

    Attributes:
        width: Of a frame after rotation, in pixels; so is ``height``.
        duration: Seconds from the first shown frame to the end of the last one.
        frame_count: Frames that the file holds and shows.
        native_fps: ``frame_count / duration``, the mean rate in frames per second.
        codec: FFmpeg's name of the decoder; ``"array"`` for frames in memory.
        container: FFmpeg's name of the file format; ``"memory"`` for frames in memory.
        rotation: Degrees counter-clockwise by which the stored frames are turned to be shown.
        key_interval: Longest time between two key frames in seconds, the cost of a random access.
        open_gop: Some frames shown before a key frame are stored after it.
        trimmed: The file holds frames that its edit list hides.
        square_pixels: False where frames are resized, since their stored pixels are not square.
        variable_rate: Some frame lasts over 1.5 times as long as the typical one.
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
        position: Its place among the shown frames of the video, from 0.
        pixels: ``[H, W, 3]`` uint8 RGB, after rotation.
        intact: False where the decoder guessed damaged parts.
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
    """Whether frames need no decoding, and so no thread."""

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        """Yield the frames at ``positions``, ``[n]`` ascending, without those that are damaged."""

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return ``[n]`` bool, whether each of ``positions`` (ascending) can be decoded."""
