"""A reader of frames in memory: arrays, tensors, lists of images."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vtc.video.reader import Picture, VideoInfo

_ORIENTATION = 0x0112
_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_PICTURE_MODES = (
    *(
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "RGBX",
        "RGBa",
        "LA",
        "La",
        "PA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
    ),
    *_16_BITS,
)


class MemoryReader:
    """Reads an array or a list of frames.

    Args:
        video: ``[N, H, W, 3]`` uint8 array or CPU tensor, or a list of PIL images or of
            ``[H, W, 3]`` uint8 arrays, all of one size.
        fps: Frames per second.

    Raises:
        TypeError: ``video`` is neither an array nor a list of frames.
        ValueError: Frames differ in size or are not uint8 RGB, or ``fps`` is None.
    """

    in_memory = True

    def __init__(self, video: Any, fps: float | None) -> None:
        _check_kind(video)
        if fps is None:
            raise ValueError(
                "expected fps to be a number for frames in memory, which have no timestamps, got "
                "None"
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
    try:
        array = np.asarray(video)
    except (TypeError, RuntimeError) as error:  # a tensor on a GPU, or of a dtype unknown to numpy
        dtype, device = getattr(video, "dtype", "?"), getattr(video, "device", "cpu")
        raise TypeError(
            "expected a video to be an array or a CPU tensor [N, H, W, 3] uint8, got "
            f"{type(video).__name__} of dtype {dtype} on {device}"
        ) from error
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or 0 in array.shape[1:]:
        raise ValueError(
            "expected a video to be an array [N, H, W, 3] uint8, RGB values from 0 to 255, got the "
            f"shape {list(array.shape)} and dtype {array.dtype}"
        )
    return array


def _check_kind(video: Any) -> None:
    is_kind = isinstance(video, (list, tuple)) or hasattr(video, "__array__")
    if not is_kind or isinstance(video, Image.Image):
        raise TypeError(
            "expected a video to be a path, an array, a list of frames or a VideoSource, got "
            f"{type(video).__name__}"
        )


def _common_size(frames: Sequence[Any] | NDArray[np.uint8]) -> tuple[int, int]:
    first = _size(frames[0], 0)
    if isinstance(frames, np.ndarray):
        return first
    for index, frame in enumerate(frames):
        if (size := _size(frame, index)) != first:
            raise ValueError(
                f"expected the frames of a list to be of one size, got {first[1]}x{first[0]} for "
                f"frame 0 and {size[1]}x{size[0]} for frame {index}"
            )
    return first


def _size(frame: Any, index: int) -> tuple[int, int]:
    """Return height and width of a frame, after its EXIF orientation is applied."""
    if isinstance(frame, Image.Image):
        if frame.mode not in _PICTURE_MODES:
            raise ValueError(
                f"expected frame {index} to have 8 or 16 bits per channel, got an image of mode "
                f"{frame.mode}; convert it to RGB"
            )
        is_turned = frame.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        height, width = (frame.width, frame.height) if is_turned else (frame.height, frame.width)
    else:
        height, width = _array_size(frame, index)
    if not height or not width:
        raise ValueError(f"expected frame {index} to have pixels, got {width}x{height}")
    return height, width


def _array_size(frame: Any, index: int) -> tuple[int, int]:
    array = np.asarray(frame)
    if array.dtype == object or array.dtype.kind in "SU":
        raise TypeError(
            "expected a list of PIL images or [H, W, 3] uint8 arrays, got "
            f"{type(frame).__name__} as frame {index}"
        )
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"expected frame {index} to be [H, W, 3] uint8, RGB values from 0 to 255, got "
            f"the shape {list(array.shape)} and dtype {array.dtype}"
        )
    return array.shape[0], array.shape[1]


def _pixels(frame: Any) -> NDArray[np.uint8]:
    """Return ``[H, W, 3]`` uint8 RGB."""
    if not isinstance(frame, Image.Image):
        return np.asarray(frame)
    frame = ImageOps.exif_transpose(frame)
    if frame.mode.startswith("I;16"):  # Pillow would clip its values at 255
        levels = (np.asarray(frame.convert("I")) >> 8).astype(np.uint8)
        return np.repeat(levels[..., None], 3, axis=-1)
    return np.asarray(frame.convert("RGB"))
