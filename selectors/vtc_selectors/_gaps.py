"""Spread unused keyframes over the gaps between selected frames."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise


def fill_gaps(selected: list[int], frames: int, keyframes: int) -> list[int]:
    """Add frames until ``min(frames, keyframes)`` are selected, as the released ViLAMP does.

    A gap is a maximal run of frames that are not selected. Each gap is divided into parts of at
    most D frames, and the first frame of each part except the first part is added. D is the
    smallest number for which there are enough keyframes. Any keyframes left over after that go to
    the last free frames of the video.

    Args:
        selected: Unique frame indices in [0, frames).
        frames: N, the number of frames of the video.
        keyframes: K, the number of frames to reach.

    Returns:
        ``min(frames, keyframes)`` frame indices, ascending.

    >>> fill_gaps([4], frames=10, keyframes=4)
    [2, 4, 7, 9]
    """
    spare = min(frames, keyframes) - len(selected)
    borders = [-1, *sorted(selected), frames]
    gaps = [(left + 1, right - left - 1) for left, right in pairwise(borders)]

    def fits(part: int) -> bool:
        return sum(_ceil_div(length, part) - 1 for _, length in gaps if length) <= spare

    longest = bisect_left(range(1, frames + 1), True, key=fits) + 1
    filled = set(selected)
    for start, length in gaps:
        if length:
            parts = _ceil_div(length, longest)
            step = _ceil_div(length, parts)
            filled.update(start + step * i for i in range(1, parts))
    free = [frame for frame in range(frames) if frame not in filled]
    filled.update(free[len(free) - (min(frames, keyframes) - len(filled)) :])
    return sorted(filled)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
