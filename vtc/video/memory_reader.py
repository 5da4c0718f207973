"""Frames that are in memory already: arrays, tensors, lists of pictures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtc.video.reader import Picture, VideoInfo


class MemoryReader:
    """Takes every item of an array or a list for a frame.

    Args:
        video: ``[N, H, W, 3]`` uint8 array or CPU tensor, or a list of PIL images or of
            ``[H, W, 3]`` uint8 arrays, all of one size.
        fps: How many of the frames make a second.
    """

    in_memory = True

    def __init__(self, video: Any, fps: float | None) -> None:
        if fps is None:
            raise ValueError(
                "fps=None: frames in memory have no timestamps; say how many make a second"
            )
        kind = "list" if isinstance(video, (list, tuple)) else "array"
        self._frames = video if kind == "list" else _as_array(video)
        count = len(self._frames)
        if count == 0:
            raise ValueError(f"the video is an empty {kind}; at least one frame is needed")
        self.name = f"{kind} of {count} frame{'s' if count > 1 else ''}"
        self.warnings: list[str] = []
        height, width = _common_size(self._frames)
        self.times: NDArray[np.float64] = np.arange(count) / fps
        self.info = VideoInfo(
            width=width,
            height=height,
            duration=count / fps,
            frame_count=count,
            native_fps=fps,
            codec="array",
            container="memory",
        )

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        for position in positions.tolist():
            yield Picture(position, _pixels(self._frames[position]), True)

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(positions), dtype=bool)


def _as_array(video: Any) -> NDArray[np.uint8]:
    array = np.asarray(video)
    if array.dtype == object:
        raise TypeError(
            f"a video is a path, an array, a list of frames or a VideoSource, "
            f"not a {type(video).__name__}"
        )
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"an array of shape {list(array.shape)} and dtype {array.dtype}: a video is "
            f"[N, H, W, 3] uint8, RGB values from 0 to 255"
        )
    return array


def _common_size(frames: Sequence[Any] | NDArray[np.uint8]) -> tuple[int, int]:
    first = _size(frames[0], 0)
    if isinstance(frames, np.ndarray):
        return first
    for index, frame in enumerate(frames):
        if (size := _size(frame, index)) != first:
            raise ValueError(
                f"frame {index} is {size[1]}x{size[0]} and frame 0 is {first[1]}x{first[0]}: "
                f"the frames of a list must be of one size"
            )
    return first


def _size(frame: Any, index: int) -> tuple[int, int]:
    if isinstance(frame, Image.Image):
        return frame.height, frame.width
    array = np.asarray(frame)
    if array.dtype == object or array.dtype.kind in "US":
        raise TypeError(
            f"frame {index} is a {type(frame).__name__}: a list holds PIL images or "
            f"[H, W, 3] uint8 arrays"
        )
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"frame {index} has shape {list(array.shape)} and dtype {array.dtype}: "
            f"allowed is [H, W, 3] uint8, RGB values from 0 to 255"
        )
    return array.shape[0], array.shape[1]


def _pixels(frame: Any) -> NDArray[np.uint8]:
    if isinstance(frame, Image.Image):
        frame = frame.convert("RGB")
    return np.asarray(frame)
