"""Evenly spaced frames."""

from __future__ import annotations


def middles_of_parts(frames: int, parts: int) -> list[int]:
    """Return the middle frames floor((k + 1/2) N / K) of K equal parts of N frames.

    Args:
        frames: N, at least 1.
        parts: K, at least 1; N is used if K is larger.

    Returns:
        min(K, N) frame indices, ascending and unique.

    >>> middles_of_parts(10, 3)
    [1, 5, 8]
    """
    parts = min(parts, frames)
    return [(2 * part + 1) * frames // (2 * parts) for part in range(parts)]
