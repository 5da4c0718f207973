"""Detect and repair implausible timestamps: outliers, equal ones, and gaps without a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FAR = 100
"""Timestamps that are this many median steps apart belong to different groups."""
_FEW = 0.02
"""A group of at most this share of all frames may be outliers."""
_MAX_REORDERING = 16
"""The maximum number of frames stored between a frame and one shown before it."""
_GAP_SECONDS, _GAP_STEPS = 10.0, 10
"""A frame that is shown for more than this many seconds and median steps leaves a gap."""


def repair(ticks: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Replace outliers, timestamps far from those stored before and after, by interpolated ones.

    Timestamps after a gap are not outliers, as time continues from there; nor is a late last one.

    Args:
        ticks: ``[P]`` int64, in order of decoding.

    Returns:
        ``[P]`` int64, and the number of replaced timestamps.

    >>> repair(np.array([0, 1, 2, 9999, *range(4, 99)]))[0][:5]
    array([0, 1, 2, 3, 4])
    """
    count = len(ticks)
    if count < 3:
        return ticks, 0
    by_time = np.argsort(ticks, kind="stable")
    steps = np.diff(ticks[by_time]).astype(np.float64)
    far = _FAR * max(1.0, float(np.median(np.abs(np.diff(ticks)))))
    groups = np.empty(count, dtype=np.int64)
    groups[by_time] = np.concatenate([[0], np.cumsum(steps > far)])
    sizes = np.bincount(groups)
    is_small = sizes[groups] <= max(1, int(_FEW * count))
    good = np.flatnonzero(~is_small)
    if is_small.all() or not is_small.any():
        return ticks, 0
    small = np.flatnonzero(is_small)
    after = np.searchsorted(good, small)
    inside = (after > 0) & (after < len(good))
    small, after = small[inside], after[inside]
    around = groups[good[after]]
    is_late_end = (groups[small] > around) & (small >= count - _MAX_REORDERING)
    outliers = small[(groups[good[after - 1]] == around) & ~is_late_end]
    repaired = ticks.copy()
    repaired[outliers] = np.round(np.interp(outliers, good, ticks[good])).astype(np.int64)
    return repaired, len(outliers)


def spread_equal(ticks: NDArray[np.int64]) -> tuple[NDArray[np.float64] | None, int]:
    """Spread frames with equal timestamps evenly up to the next timestamp.

    Args:
        ticks: ``[N]`` int64, ascending.

    Returns:
        ``[N]`` float64, strictly ascending, or None if all are equal; and the number of frames
        that had the timestamp of the frame before.

    >>> spread_equal(np.array([0, 0, 4, 8, 8]))
    (array([ 0.,  2.,  4.,  8., 10.]), 2)
    """
    starts, first, counts = np.unique(ticks, return_index=True, return_counts=True)
    equal = len(ticks) - len(starts)
    if not equal:
        return ticks.astype(np.float64), 0
    if len(starts) == 1:
        return None, equal
    steps = np.diff(starts).astype(np.float64)
    steps = np.append(steps, np.median(steps)) / counts
    places = np.arange(len(ticks)) - np.repeat(first, counts)
    spread = np.repeat(starts, counts) + places * np.repeat(steps, counts)
    return spread.astype(np.float64), equal


def gaps(times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Find the frames before gaps, which are shown for far too long.

    Args:
        times: ``[N]`` seconds, strictly ascending.

    Returns:
        ``[g]`` int64, their positions.
    """
    steps = np.diff(times)
    if not len(steps):
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(steps > max(_GAP_SECONDS, _GAP_STEPS * float(np.median(steps))))


def gap_warnings(times: NDArray[np.float64]) -> list[str]:
    """Return a warning with the longest gap between frames shown at ``times``, ``[N]`` seconds."""
    positions = gaps(times)
    if not len(positions):
        return []
    steps = np.diff(times)[positions]
    start = times[positions[np.argmax(steps)]]
    more = f", and {len(steps) - 1} more such gaps" if len(steps) > 1 else ""
    return [
        f"has no frame for {steps.max():.1f} s after {start:.1f} s{more}: the recording has a gap, "
        "or a timestamp is broken; max_frames and frames are spread over the existing frames"
    ]
