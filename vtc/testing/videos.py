"""Small synthetic videos for examples and tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "red": (214, 49, 49),
    "green": (57, 160, 74),
    "blue": (52, 98, 219),
    "yellow": (238, 200, 60),
    "white": (240, 240, 240),
}


def moving_squares(
    seconds: int = 60, fps: int = 10, size: tuple[int, int] = (180, 320), seed: int = 0
) -> NDArray[np.uint8]:
    """Draw scenes of ten seconds, each with a coloured square that crosses a textured background.

    Returns:
        ``[seconds * fps, H, W, 3]`` uint8 RGB; the colours are in the order of ``COLOURS``.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    side = height // 3
    frames = np.empty((seconds * fps, height, width, 3), np.uint8)
    colours = list(COLOURS.values())
    for start in range(0, len(frames), 10 * fps):
        scene = frames[start : start + 10 * fps]
        colour = colours[start // (10 * fps) % len(colours)]
        coarse = rng.integers(40, 110, (-(-height // 20), -(-width // 20), 3))
        ground = coarse.repeat(20, 0).repeat(20, 1)[:height, :width]
        top = int(rng.integers(0, height - side))
        for n, frame in enumerate(scene):
            left = (width - side) * n // max(1, len(scene) - 1)
            frame[:] = ground + rng.integers(0, 12, (height, width, 1))
            frame[top : top + side, left : left + side] = colour
    return frames
