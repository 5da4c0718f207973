"""Which frames of a video are looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-6
"""Seconds; keeps rounding (29.97 for 30000/1001) from choosing the frame before."""


def sample(
    times: NDArray[np.float64],
    duration: float,
    *,
    fps: float | None = None,
    frames: int | None = None,
    max_frames: int | None = None,
) -> NDArray[np.int64]:
    """Choose frames by time.

    A sample at time t is the last frame shown at or before t. A frame that several samples fall
    on is taken once, so there are never more samples than frames.

    Args:
        times: ``[N]`` seconds at which the frames are shown, strictly ascending from 0.
        duration: Seconds, where the last frame ends.
        fps: Samples at ``k / fps`` for k = 0, 1, ... while that is below ``duration``.
        frames: n samples at the midpoints ``(k + 0.5) * duration / n`` instead.
        max_frames: Where that gives more, the midpoints of this many parts instead.

    Returns:
        ``[n]`` int64 positions, strictly ascending; every frame without ``fps`` and ``frames``.

    >>> sample(np.arange(6) / 2, 3.0, fps=1.0)
    array([0, 2, 4])
    """
    if frames is not None:
        chosen = _on_grid(times, duration, frames / duration, 0.5)
    elif fps is not None:
        chosen = _on_grid(times, duration, fps, 0.0)
    else:
        chosen = np.arange(len(times), dtype=np.int64)
    if max_frames is not None and len(chosen) > max_frames:
        chosen = _on_grid(times, duration, max_frames / duration, 0.5)
    return chosen


def _on_grid(
    times: NDArray[np.float64], duration: float, rate: float, phase: float
) -> NDArray[np.int64]:
    """Positions of the frames during which some instant ``(k + phase) / rate`` falls.

    Asking each frame for its first instant, rather than each instant for its frame, costs the
    same however high the rate is.
    """
    starts = times - TOLERANCE
    ends = np.append(starts[1:], duration - TOLERANCE)
    first = (np.ceil(np.maximum(starts, 0.0) * rate - phase) + phase) / rate
    return np.flatnonzero(first < ends).astype(np.int64)
