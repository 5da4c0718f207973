"""bolt, mdp3, qframe and random against slow float64 references written from the methods' text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cosine

import vtc
from vtc.testing import scene_embeddings

seeds = st.integers(0, 10**6)


def slow_bolt(rows, query, keyframes, power):
    """The first frame whose cumulative share reaches each of K points of (0, 1)."""
    if keyframes >= len(rows):
        return list(range(len(rows)))
    scores = [cosine(row, query) for row in rows]
    low, high = min(scores), max(scores)
    shares = [((s - low) / (high - low)) ** power if high > low else 1.0 for s in scores]
    first, last = 1 / keyframes, 1 - 1 / keyframes
    points = [first + (last - first) * k / max(keyframes - 1, 1) for k in range(keyframes)]
    points = points if keyframes > 1 else [0.5]
    frames = set()
    for point in points:
        total, n = shares[0], 0
        while total < point * math.fsum(shares) and n + 1 < len(rows):
            n += 1
            total += shares[n]
        frames.add(n)
    return sorted(frames)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([0.0, 1.0, 2.5, 3.0]), seeds)
def test_bolt_is_inverse_transform_sampling(frames, keyframes, power, seed):
    embeddings, query = scene_embeddings(frames, dim=6, seed=seed)
    selection = vtc.selector("bolt", keyframes=keyframes, power=power).select(embeddings, query)
    expected = slow_bolt(embeddings.tolist(), query.tolist(), keyframes, power)
    # With equal shares the points lie on steps of the distribution, which rounding may move.
    assert selection.keyframes.tolist() == expected or power == 0.0


def test_bolt_takes_most_frames_where_the_video_is_relevant():
    query = torch.tensor([1.0, 0.0])
    embeddings = torch.tensor([[0.0, 1.0]]).repeat(100, 1)
    embeddings[40:60] = torch.tensor([1.0, 0.1])
    indices = vtc.selector("bolt", keyframes=10).select(embeddings, query).keyframes
    assert len(indices) == 10 and 40 <= indices.min() and indices.max() < 60
    flat = vtc.selector("bolt", keyframes=4).select(torch.ones(41, 2), query).keyframes
    assert flat.tolist() == [10, 17, 23, 30]


def test_a_huge_number_of_keyframes_keeps_all_frames():
    embeddings, query = scene_embeddings(9, dim=6, seed=0)
    for name in ("bolt", "mdp3", "qframe", "random"):
        selector = vtc.selector(name, keyframes=2**31 - 1)
        assert selector.select(embeddings, query).keyframes.tolist() == list(range(9))


def slow_kernel(a, b):
    distance = math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return math.fsum(math.exp(-distance / (2 * 2.0**n)) for n in range(-3, 2))


def slow_log_det(rows):
    return np.linalg.slogdet([[slow_kernel(a, b) for b in rows] for a in rows])[1] if rows else 0.0


def slow_mdp3(rows, query, keyframes, temperature, segment):
    """Full determinants in place of Cholesky updates, all states one after another."""
    rows = [[x / math.hypot(*row) for x in row] for row in rows]
    query = [x / math.hypot(*query) for x in query]
    reward = [2 / temperature * math.log(slow_kernel(row, query)) for row in rows]
    table = {0: (0.0, [])}
    for start in range(0, len(rows), segment):
        frames = range(start, min(start + segment, len(rows)))
        new = dict(table)
        for k, (score, indices) in table.items():
            last = [rows[indices[-1]]] if indices else []
            picks, total = [], score
            while len(picks) < len(frames) and k + len(picks) < keyframes:
                before = slow_log_det(last + [rows[n] for n in picks])
                gain = {
                    n: slow_log_det(last + [rows[m] for m in (*picks, n)]) - before + reward[n]
                    for n in frames
                    if n not in picks
                }
                picks.append(max(gain, key=gain.get))
                total += gain[picks[-1]]
                number = k + len(picks)
                if number not in new or total > new[number][0]:
                    new[number] = total, indices + sorted(picks)
        table = new
    return table[min(keyframes, len(rows))][1]


@pytest.mark.parametrize("seed", range(6))
def test_mdp3_is_a_greedy_dpp_with_dynamic_programming_over_segments(seed):
    embeddings, query = scene_embeddings(22, dim=5, seed=seed)
    for keyframes, temperature, segment in ((6, 0.2, 8), (5, 5.0, 6), (9, 1.0, 32), (3, 50.0, 1)):
        options = {"relevance_temperature": temperature, "segment": segment}
        selector = vtc.selector("mdp3", keyframes=keyframes, **options)
        indices = selector.select(embeddings, query).keyframes.tolist()
        rows = embeddings.double().tolist()
        expected = slow_mdp3(rows, query.double().tolist(), keyframes, temperature, segment)
        assert indices == expected


def test_mdp3_takes_copies_of_a_frame_last():
    embeddings = torch.eye(8)[[0, 0, 0, 1, 1, 2, 3, 3]]
    selector = vtc.selector("mdp3", keyframes=4, segment=8)
    assert selector.select(embeddings, torch.ones(8)).keyframes.tolist() == [0, 3, 5, 6]
    still = vtc.selector("mdp3", keyframes=3).select(torch.ones(9, 4), torch.ones(4))
    assert len(still.keyframes) == 3


@pytest.mark.parametrize("temperature", [0.1, 0.8])
def test_qframe_draws_the_first_frame_with_the_probabilities_of_a_softmax(temperature):
    embeddings, query = scene_embeddings(5, dim=6, seed=0)
    relevance = [cosine(row, query.tolist()) for row in embeddings.tolist()]
    weights = [math.exp(each / temperature) for each in relevance]
    counts = [0] * 5
    for seed in range(2000):
        options = {"temperature": temperature, "seed": seed}
        indices = vtc.selector("qframe", keyframes=1, **options).select(embeddings, query).keyframes
        counts[int(indices)] += 1
    for count, weight in zip(counts, weights, strict=True):
        share = weight / math.fsum(weights)
        assert abs(count / 2000 - share) < 4 * math.sqrt(share * (1 - share) / 2000)


def test_qframe_at_a_low_temperature_is_query_guided():
    embeddings, query = scene_embeddings(40, dim=8, seed=1)
    cold = vtc.selector("qframe", keyframes=7, temperature=1e-4).select(embeddings, query)
    best = vtc.selector("query_guided", keyframes=7).select(embeddings, query)
    assert torch.equal(cold.keyframes, best.keyframes)


def test_random_draws_all_frames_equally_often_and_repeats_a_seed():
    counts, video = torch.zeros(6), torch.empty(6, 0)
    for seed in range(1500):
        counts[vtc.selector("random", keyframes=2, seed=seed).select(video).keyframes] += 1
    assert counts.sum() == 3000 and (counts / 1500 - 1 / 3).abs().max() < 0.05
    again = [vtc.selector("random", keyframes=2).select(video).keyframes.tolist() for _ in "ab"]
    assert again[0] == again[1]
