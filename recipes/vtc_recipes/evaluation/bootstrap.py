"""Confidence intervals: Wilson's for proportions, and the paired bootstrap for means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000


def interval(
    scores: Sequence[Sequence[float]],
    *,
    seeds: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of the mean of all scores.

    For the difference of two configurations, pass the differences by question, so that both are
    resampled together.

    Args:
        scores: Scores by seed; few distinct values (such as 0 and 1) make it fast.
        seeds: Resample the seeds as well, then the questions of each; for seeds that are separate
            trainings.
        draws: Number of resamples.
        seed: Seed of the resampling.
        confidence: Fraction of resampled means inside the interval.

    Raises:
        ValueError: There is no seed, or a seed has no scores.

    >>> interval([[0.0, 1.0, 1.0, 1.0] * 25])
    (0.66, 0.83)
    """
    if not scores or not all(len(values) for values in scores):
        raise ValueError("expected at least one seed with at least one score, got none")
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(values, dtype=np.float64) for values in scores]
    sums, counts = np.zeros(draws), np.zeros(draws)
    for place in range(len(arrays)):
        drawn = rng.integers(len(arrays), size=draws) if seeds else np.full(draws, place)
        for number, values in enumerate(arrays):
            mask = drawn == number
            sums[mask] += _sums(rng, values, int(mask.sum()))
            counts[mask] += len(values)
    edges = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = np.quantile(sums / counts, edges).tolist()
    return low, high


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a proportion, by default for 95 %.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return middle - half, middle + half


def _sums(rng: np.random.Generator, values: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """Return sums of ``len(values)`` values drawn with replacement, ``[draws]``."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(len(values), counts / len(values), size=draws)
    return np.asarray(drawn @ distinct, dtype=np.float64)
