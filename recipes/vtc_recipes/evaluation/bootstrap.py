"""Paired bootstrap: how far a mean over questions and seeds may be off."""

from __future__ import annotations

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
    """The percentile interval of the mean of all scores.

    For a difference of two configurations, give the differences question by question: then both
    are drawn alike.

    Args:
        scores: Those of each seed. Few different values (right or wrong, and their differences)
            make it fast.
        seeds: Draw seeds as well, then questions of each drawn one: where each is a training.
        draws: How many.
        seed: Of the draws; the same one gives the same interval.

    Raises:
        ValueError: There is no seed, or one without scores.

    >>> interval([[0.0, 1.0, 1.0, 1.0] * 25])
    (0.66, 0.83)
    """
    if not scores or not all(len(one) for one in scores):
        raise ValueError("no scores: an interval needs at least one seed, and one score of each")
    rng = np.random.default_rng(seed)
    kept = [np.asarray(one, dtype=np.float64) for one in scores]
    sums, counts = np.zeros(draws), np.zeros(draws)
    for place in range(len(kept)):
        drawn = rng.integers(len(kept), size=draws) if seeds else np.full(draws, place)
        for number, values in enumerate(kept):
            here = drawn == number
            sums[here] += _sums(rng, values, int(here.sum()))
            counts[here] += len(values)
    edges = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = np.quantile(sums / counts, edges).tolist()
    return low, high


def _sums(rng: np.random.Generator, values: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """Sums of as many values as there are, drawn with replacement: how often each value comes."""
    different, times = np.unique(values, return_counts=True)
    drawn = rng.multinomial(len(values), times / len(values), size=draws)
    return np.asarray(drawn @ different, dtype=np.float64)
