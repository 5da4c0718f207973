"""Small pictures of frames, and of a merger's weights of their patches."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 320
"""The width of a kept picture in pixels."""
_DIM = 0.15
"""The brightness of a patch without weight."""


class Pictures:
    """Small pictures of some frames of a video, kept in memory or read from its file on demand.

    Args:
        frames: Pairs of a frame's number and its pixels; they are kept scaled down to ``WIDTH``.
        source: A ``vtc.VideoSource`` to read other frames from; None for none.
    """

    def __init__(
        self, frames: Iterable[tuple[int, NDArray[np.uint8]]] = (), source: Any = None
    ) -> None:
        self._kept = {number: scale_down(frame) for number, frame in frames}
        self._source = source

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the file: a copy or a pickle holds only the kept pictures."""
        return {"_kept": self._kept, "_source": None}

    def of(self, numbers: Sequence[int]) -> dict[int, Image.Image]:
        """Return the pictures of frames by number; leave out those that cannot be read."""
        missing = sorted(set(numbers) - self._kept.keys())
        if missing and self._source is not None:
            try:
                for chunk in self._source.chunks(missing):
                    frames = zip(chunk.indices.tolist(), chunk.frames, strict=True)
                    self._kept.update((number, scale_down(frame)) for number, frame in frames)
            except (OSError, ValueError):  # the file was removed or changed
                self._source = None
        return {number: self._kept[number] for number in numbers if number in self._kept}


def scale_down(frame: NDArray[np.uint8], width: int = WIDTH) -> Image.Image:
    """Return a frame ``[H, W, 3]`` uint8 as a picture of at most this width."""
    step = max(1, frame.shape[1] // (2 * width))  # take every step-th pixel first, for speed
    picture = Image.fromarray(np.ascontiguousarray(frame[::step, ::step]))
    if picture.width <= width:
        return picture
    height = max(1, round(width * frame.shape[0] / frame.shape[1]))
    return picture.resize((width, height), Image.Resampling.BOX)


def data_uri(picture: Image.Image) -> str:
    """Return a picture as a ``data:`` address."""
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def heat_map(picture: Image.Image, weights: NDArray[np.float32]) -> Image.Image:
    """Darken the patches of a frame to which a merger gives little weight.

    The heaviest patch keeps its brightness, so the map can be read without colour.

    Args:
        picture: The frame, at least as large as the grid.
        weights: ``[h, w]``, the weights of its patches, not negative.
    """
    share = weights / max(float(weights.max()), 1e-12)
    light = Image.fromarray(((_DIM + (1 - _DIM) * share) * 255).astype(np.uint8))
    light = light.resize(picture.size, Image.Resampling.NEAREST)
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    bright = pixels * (np.asarray(light, dtype=np.float32)[..., None] / 255)
    return Image.fromarray(bright.astype(np.uint8))


def heaviest_share(weights: NDArray[np.float32], part: float = 0.1) -> float:
    """Return the share of all weight that the heaviest ``part`` of the patches holds."""
    flat = np.sort(weights.ravel())[::-1]
    total = float(flat.sum())
    return float(flat[: max(1, round(part * flat.size))].sum()) / total if total > 0 else 0.0
