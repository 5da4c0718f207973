"""dig against a slow reference, its peaks against scipy, and a scorer of one's own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cosine

import vtc
from vtc.testing import scene_embeddings
from vtc_selectors.dig import Dig, good_scenes, peaks


def slow_peaks(values, prominence):
    """By definition: each run of equal values, and the walk from it to a larger one."""
    found = []
    for n in range(1, len(values) - 1):
        first = last = n
        while first and values[first - 1] == values[n]:
            first -= 1
        while last + 1 < len(values) and values[last + 1] == values[n]:
            last += 1
        if first == 0 or last == len(values) - 1 or (first + last) // 2 != n:
            continue
        if values[first - 1] > values[n] or values[last + 1] > values[n]:
            continue
        lows = []
        for step in (-1, 1):
            at, low = n, values[n]
            while 0 <= at < len(values) and values[at] <= values[n]:
                low = min(low, values[at])
                at += step
            lows.append(low)
        if values[n] - max(lows) >= prominence:
            found.append(n)
    return found


numbers = st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0]), max_size=14)


@settings(deadline=None)
@given(numbers, st.sampled_from([0.0, 0.125, 0.3, 1.0]))
def test_peaks_are_those_of_their_definition(values, prominence):
    assert peaks(values, prominence) == slow_peaks(values, prominence)


def test_peaks_are_those_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    for seed in range(200):
        draw = torch.randint(0, 5, (seed % 23,), generator=torch.Generator().manual_seed(seed))
        values = (draw / 4).tolist()
        for prominence in (0.0, 0.25, 0.5):
            expected = signal.find_peaks(values, prominence=prominence)[0].tolist()
            assert peaks(values, prominence) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, 0.0], []),
        ([0.0, 1.0, 0.0], [1]),
        ([0.0, 0.4, 1.0, 0.9], [2, 3]),  # both rules agree
        ([0.6, 0.6, 0.6, 1.0], [3]),  # one is left of the mean, four are above half
        ([1.0, 0.1, 0.1, 0.1, 0.9, 0.55, 0.0], [0, 4]),  # the mean again: 1.0 and 0.9
    ],
)
def test_good_scenes_are_the_fewer_of_two_sets(scores, expected):
    assert good_scenes(scores) == expected


def slow_dig(rows, query, keyframes, prominence):
    if len(rows) <= keyframes:
        return list(range(len(rows)))
    change = [1 - cosine(a, b) for a, b in zip(rows, rows[1:], strict=False)]
    borders = [0, *(n + 1 for n in slow_peaks(change, prominence)), len(rows)]
    scenes = list(zip(borders, borders[1:], strict=False))
    scores = [cosine(rows[(a + b - 1) // 2], query) for a, b in scenes]
    low, high = min(scores), max(scores)
    scaled = [(score - low) / (high - low) if high > low else 0.0 for score in scores]
    active = [score for score in scaled if score > 0]
    left, before = active, None
    while before != sum(score == 0 for score in left):
        before = sum(score == 0 for score in left)
        mean = math.fsum(left) / max(len(left), 1)
        left = [max(score - mean, 0) for score in left]
    places = [n for n, score in enumerate(scaled) if score > 0]
    sets = [
        [n for n, score in zip(places, left, strict=True) if score],
        [n for n, score in enumerate(scaled) if score > 0.5 * max(scaled)],
    ]
    good = sets[0] if len(sets[0]) <= len(sets[1]) else sets[1]
    if len(active) == 1:
        good = [scaled.index(active[0])]
    if not good:
        good = range(len(scenes))
    union = sorted({n for g in good for a, b in scenes[max(0, g - 2) : g + 3] for n in range(a, b)})
    step = (len(union) - 1) / max(keyframes - 1, 1)
    return sorted({union[int(step * k + 1e-9)] for k in range(keyframes)})


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_dig_equals_a_slow_reference(frames, keyframes, prominence, seed):
    embeddings, query = scene_embeddings(frames, dim=6, seed=seed)
    embeddings, query = embeddings.double(), query.double()
    selector = vtc.selector("dig", keyframes=keyframes, prominence=prominence)
    selection = selector.select(embeddings, query)
    expected = slow_dig(embeddings.tolist(), query.tolist(), keyframes, prominence)
    assert selection.keyframes.tolist() == expected


def test_a_subclass_may_ask_another_scorer():
    embeddings = torch.eye(6).repeat_interleave(10, 0)  # six scenes

    class Late(Dig):
        def rate(self, frames, embeddings, query):
            return frames == frames.max()

    selection = Late(Dig.Config(keyframes=5)).select(embeddings, embeddings[0])
    assert selection.keyframes.tolist() == [30, 37, 44, 51, 59]  # the last scene and two before
    assert selection.relevance.tolist() == [0.0] * 50 + [1.0] * 10
