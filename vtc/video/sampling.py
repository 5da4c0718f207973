"""Choose the frames of a video to read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vtc.video.timestamps import gaps

TOLERANCE = 1e-6
"""Seconds; without it, rounding (29.97 for 30000/1001) would choose the frame before."""


def sample(
    times: NDArray[np.float64],
    duration: float,
    *,
    fps: float | None = None,
    frames: int | None = None,
    max_frames: int | None = None,
) -> NDArray[np.int64]:
    """Choose frames by time.

    A sample at time t is the last frame shown at or before t. A frame is taken once, so there are
    never more samples than frames.

    Args:
        times: ``[N]`` seconds at which the frames are shown, strictly ascending from 0.
        duration: The end of the last frame in seconds.
        fps: Take samples at ``k / fps`` for k = 0, 1, ... while that is below ``duration``.
        frames: Take n samples at the midpoints ``(k + 0.5) * duration / n`` instead. In a video
            with gaps, each frame before a gap takes one sample and the others are spread evenly.
        max_frames: If that gives more samples, take this many at midpoints instead.

    Returns:
        ``[n]`` int64 positions, strictly ascending; every frame without ``fps`` and ``frames``.

    >>> sample(np.arange(6) / 2, 3.0, fps=1.0)
    array([0, 2, 4])
    >>> sample(np.array([0.0, 1.0, 2.0, 3600.0, 3601.0]), 3602.0, frames=4)
    array([0, 2, 3, 4])
    """
    if frames is not None:
        positions = _spread(times, duration, frames)
    elif fps is not None:
        positions = _on_grid(times, duration, fps, 0.0)
    else:
        positions = np.arange(len(times), dtype=np.int64)
    if max_frames is not None and len(positions) > max_frames:
        positions = _spread(times, duration, max_frames)
    return positions


def _spread(times: NDArray[np.float64], duration: float, count: int) -> NDArray[np.int64]:
    """Return the positions of ``count`` evenly spaced frames, or of all if there are no more."""
    if count >= len(times):
        return np.arange(len(times), dtype=np.int64)
    positions = _on_grid(times, duration, count / duration, 0.5)
    if len(positions) == count or not len(gaps(times)):
        return positions
    # Some frames last longer than duration / count. Cut these to the length at which each takes
    # one sample, and spread the other samples over the rest.
    steps = np.diff(np.append(times, duration))
    ascending = np.sort(steps)
    shorter = np.cumsum(ascending) - ascending  # the sum of all steps before each
    uncut = count - np.arange(len(steps), 0, -1)  # samples for them, if it and all after are cut
    limits = np.where(uncut > 0, shorter / np.maximum(uncut, 1), np.inf)
    ends = np.cumsum(np.minimum(steps, limits[np.argmax(limits <= ascending)]))
    middles = (np.arange(count) + 0.5) * ends[-1] / count
    return np.unique(np.searchsorted(ends, middles, side="right"))


def _on_grid(
    times: NDArray[np.float64], duration: float, rate: float, phase: float
) -> NDArray[np.int64]:
    """Return the positions of the frames that are shown at some time ``(k + phase) / rate``.

    The cost does not depend on the rate, as this finds the first such time in each frame, not the
    frame at each such time.
    """
    starts = times - TOLERANCE
    ends = np.append(starts[1:], duration - TOLERANCE)
    first = (np.ceil(np.maximum(starts, 0.0) * rate - phase) + phase) / rate
    return np.flatnonzero(first < ends).astype(np.int64)
