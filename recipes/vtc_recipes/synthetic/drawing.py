"""Shapes, textures and noise of the synthetic world, as functions of the plane.

Lengths are in units of the frame's shorter side, so a scene looks the same at every size. All
arithmetic is float32 numpy over stacks of frames: thousands of 48x48 frames per second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

NOISE_LEVELS = 5
"""Noise is an integer number of grey levels from -5 to 5."""
_PERIODS = np.float32(2 * np.pi * 5)  # five periods of a texture per frame
_NOISE_SHIFTS = 4096


def draw_shape(shape: str, x: Plane, y: Plane, sharpness: float) -> Plane:
    """Return the fraction of each pixel that a shape of radius 1 around the origin covers.

    Args:
        shape: One of ``SHAPES``.
        x: ``[..., H, W]`` float32 coordinates, to the right; ``y`` downwards.
        sharpness: Pixels per unit of length; edges are one pixel wide.

    Returns:
        ``[..., H, W]`` float32 from 0 to 1.
    """
    covered: Plane = np.clip(0.5 - _DISTANCES[shape](x, y) * np.float32(sharpness), 0, 1)
    return covered


def draw_texture(texture: str, x: Plane, y: Plane, phases: NDArray[np.float32]) -> Plane:
    """Return the brightness of a background.

    Args:
        texture: One of ``TEXTURES``.
        x: ``[..., H, W]`` float32 coordinates, to the right; ``y`` downwards.
        phases: ``[3]`` float32 radians that vary the clouds.

    Returns:
        ``[..., H, W]`` float32 from 0 to 1.
    """
    bright: Plane = _TEXTURES[texture](x * _PERIODS, y * _PERIODS, phases)
    return bright


def draw_spark(x: Plane, y: Plane, sharpness: float) -> Plane:
    """Return the fraction of each pixel covered by a spark of eight thin rays; see `draw_shape`."""
    upright = np.minimum(np.abs(x), np.abs(y))
    diagonal = np.minimum(np.abs(x - y), np.abs(x + y)) * np.float32(0.7071)
    rays = np.maximum(np.minimum(upright, diagonal) - np.float32(0.09), np.hypot(x, y) - 1)
    covered: Plane = np.clip(0.5 - rays * np.float32(sharpness), 0, 1)
    return covered


def noise(height: int, width: int, seed: int, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return noise that differs between frames: ``[n, height, width]`` float32 grey levels.

    Every frame is a window of one long strip, which is much cheaper than new random numbers.
    """
    strip = _strip(height * width)
    # Odd steps visit all windows before one repeats.
    starts = (seed * 40503 + frames * 1777) % _NOISE_SHIFTS
    windows = np.lib.stride_tricks.sliding_window_view(strip, height * width)
    return windows[starts].reshape(-1, height, width)


@lru_cache(maxsize=4)
def _strip(pixels: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    levels = rng.integers(-NOISE_LEVELS, NOISE_LEVELS + 1, pixels + _NOISE_SHIFTS)
    return levels.astype(np.float32)


def _circle(x: Plane, y: Plane) -> Any:
    return np.hypot(x, y) - np.float32(0.9)


def _square(x: Plane, y: Plane) -> Any:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.78)


def _diamond(x: Plane, y: Plane) -> Any:
    return (np.abs(x) * np.float32(1.3) + np.abs(y) - 1) * np.float32(0.65)


def _triangle(x: Plane, y: Plane) -> Any:
    sides = np.abs(x) * np.float32(0.866) - y * np.float32(0.5)
    return np.maximum(sides - np.float32(0.25), y - np.float32(0.7)) - np.float32(0.1)


def _cross(x: Plane, y: Plane) -> Any:
    across, along = np.abs(x), np.abs(y)
    longer, shorter = np.maximum(across, along), np.minimum(across, along)
    return np.maximum(longer - np.float32(0.95), shorter - np.float32(0.27))


def _ring(x: Plane, y: Plane) -> Any:
    return np.abs(np.hypot(x, y) - np.float32(0.7)) - np.float32(0.2)


def _star(x: Plane, y: Plane) -> Any:
    # Fold all ten half-points onto one; its edge runs from the tip to the notch.
    radius, turn = np.hypot(x, y), np.arctan2(x, -y)
    folded = np.abs((turn + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5).astype(np.float32)
    tip, notch = np.array([0.0, 1.0]), 0.42 * np.array([np.sin(np.pi / 5), np.cos(np.pi / 5)])
    edge = (notch - tip) / np.linalg.norm(notch - tip)
    across, along = radius * np.sin(folded), radius * np.cos(folded) - np.float32(tip[1])
    return -(across * np.float32(edge[1]) - along * np.float32(edge[0]))


def _moon(x: Plane, y: Plane) -> Any:
    bite = np.float32(0.75) - np.hypot(x - np.float32(0.5), y)
    return np.maximum(np.hypot(x, y) - np.float32(0.95), bite)


def _stripes(x: Plane, y: Plane, phases: NDArray[np.float32]) -> Any:
    return np.float32(0.5) + np.float32(0.5) * np.sin(x + y)


def _checks(x: Plane, y: Plane, phases: NDArray[np.float32]) -> Any:
    return ((np.sin(x * np.float32(0.5)) > 0) ^ (np.sin(y * np.float32(0.5)) > 0)).astype(
        np.float32
    )


def _dots(x: Plane, y: Plane, phases: NDArray[np.float32]) -> Any:
    return (np.cos(x) + np.cos(y) > np.float32(0.6)).astype(np.float32)


def _waves(x: Plane, y: Plane, phases: NDArray[np.float32]) -> Any:
    bent = y + np.float32(1.5) * np.sin(x * np.float32(0.5))
    return np.float32(0.5) + np.float32(0.5) * np.sin(bent)


def _bricks(x: Plane, y: Plane, phases: NDArray[np.float32]) -> Any:
    row = np.floor(y / np.float32(2 * np.pi))
    flat = np.cos(y) < np.float32(0.75)
    upright = np.cos(x * np.float32(0.5) + row * np.float32(np.pi / 2)) < np.float32(0.9)
    return (flat & upright).astype(np.float32)


def _clouds(x: Plane, y: Plane, phases: NDArray[np.float32]) -> Any:
    total = np.sin(x * np.float32(0.3) + phases[0]) + np.sin(y * np.float32(0.35) + phases[1])
    total = total + np.sin((x + y) * np.float32(0.25) + phases[2])
    total = total + np.sin((x - y) * np.float32(0.4))
    return np.float32(0.5) + total * np.float32(0.125)


_DISTANCES: dict[str, Callable[[Plane, Plane], Any]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
    "moon": _moon,
}
_TEXTURES: dict[str, Callable[[Plane, Plane, NDArray[np.float32]], Any]] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "waves": _waves,
    "bricks": _bricks,
    "clouds": _clouds,
}
SHAPES = tuple(_DISTANCES)
TEXTURES = tuple(_TEXTURES)
COLOURS = {
    "red": (225, 45, 45),
    "green": (45, 185, 70),
    "blue": (55, 95, 235),
    "yellow": (240, 215, 50),
    "purple": (170, 60, 205),
    "cyan": (60, 215, 225),
}
