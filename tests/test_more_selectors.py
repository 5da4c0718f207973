"""Further selectors against slow references in plain Python, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import integer_videos

from vtc.testing import LargestTensor, scene_embeddings
from vtc_selectors.aks import AKS
from vtc_selectors.dks_next import DKSNext
from vtc_selectors.kmeans import KMeans
from vtc_selectors.mmr import MMR
from vtc_selectors.scene_change import SceneChange

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
WITH_QUERY = [MMR, AKS]
WITHOUT_QUERY = [KMeans, SceneChange]
EVERY = WITH_QUERY + WITHOUT_QUERY


def units(rows):
    """Rows of length one; zero rows stay."""
    lengths = [math.sqrt(math.fsum(x * x for x in row)) or 1.0 for row in rows]
    return [[x / length for x in row] for row, length in zip(rows, lengths, strict=True)]


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def mean(numbers):
    return math.fsum(numbers) / len(numbers)


def mmr_by_hand(rows, query, keyframes, weight):
    """Carbonell and Goldstein, 1998, word by word: argmax over the frames not in S."""
    rows, (query,) = units(rows), units([query])
    taken = [max(range(len(rows)), key=lambda n: dot(rows[n], query))]
    while len(taken) < min(keyframes, len(rows)):
        marginal = {
            n: weight * dot(rows[n], query)
            - (1 - weight) * max(dot(rows[n], rows[k]) for k in taken)
            for n in range(len(rows))
            if n not in taken
        }
        taken.append(max(marginal, key=marginal.get))
    return sorted(taken)


def aks_by_hand(rows, query, keyframes, threshold, max_depth):
    """Judge and split over explicit lists of frames, level by level."""
    rows, (query,) = units(rows), units([query])
    scores = [dot(row, query) for row in rows]
    low, high = min(scores), max(scores)
    scores = [(score - low) / (high - low) for score in scores] if high > low else [0] * len(rows)
    level = [(list(range(len(rows))), min(keyframes, len(rows)))]
    taken = []
    for depth in range(max_depth + 1):
        halves = []
        for frames, budget in level:
            best = sorted(frames, key=lambda n: -scores[n])[:budget]
            lead = mean([scores[n] for n in best]) - mean([scores[n] for n in frames])
            if lead >= threshold or budget == 1 or depth == max_depth:
                taken += best
            else:
                middle, first = math.ceil(len(frames) / 2), math.ceil(budget / 2)
                halves += [(frames[:middle], first), (frames[middle:], budget - first)]
        level = halves
    return sorted(taken)


def kmeans_by_hand(rows, keyframes, iterations):
    """Lloyd's algorithm from frames at equal distances; the nearest frame of each cluster."""
    rows = units(rows)
    parts = min(keyframes, len(rows))
    centroids = [rows[math.floor((k + 0.5) * len(rows) / parts)] for k in range(parts)]

    def distance(n, k):  # rounded, or two frames would not be equally far from their mean
        return round(math.fsum((x - c) ** 2 for x, c in zip(rows[n], centroids[k], strict=True)), 9)

    def assigned():
        return [min(range(parts), key=lambda k: distance(n, k)) for n in range(len(rows))]

    for _ in range(iterations):
        clusters = assigned()
        for k in range(parts):
            members = [rows[n] for n in range(len(rows)) if clusters[n] == k]
            if members:
                centroids[k] = [mean(column) for column in zip(*members, strict=True)]
    clusters = assigned()
    return sorted(
        min((n for n in range(len(rows)) if clusters[n] == k), key=lambda n: distance(n, k))
        for k in set(clusters)
    )


def scenes_by_hand(rows, keyframes, least):
    """Split where the cosine distance of neighbours is largest; the middle of every scene."""
    rows = units(rows)
    changes = [1 - dot(a, b) for a, b in zip(rows, rows[1:], strict=False)]
    ranked = sorted(range(len(changes)), key=lambda n: -changes[n])[: keyframes - 1]
    cuts = {n for n in ranked if changes[n] > least}
    scenes, scene = [], [0]
    for n in range(1, len(rows)):
        if n - 1 in cuts:
            scenes.append(scene)
            scene = []
        scene.append(n)
    return [scene[(len(scene) - 1) // 2] for scene in [*scenes, scene]]


def next_by_hand(rows, query, keyframes, threshold):
    """Half by dks; then, from the most relevant on, the first later frame unlike each."""
    rows, query = units(rows), units([query])[0]
    cosines = [dot(row, query) for row in rows]
    half, taken = (keyframes + 1) // 2, []
    for n in sorted(range(len(rows)), key=lambda n: -cosines[n]):
        if len(taken) < half and all(dot(rows[n], rows[k]) < threshold - 1e-6 for k in taken):
            taken.append(n)
    chosen = {*taken}
    for k in taken:
        unlike = (n for n in range(k + 1, len(rows)) if dot(rows[n], rows[k]) < threshold - 1e-6)
        chosen |= {next(unlike, k)} if len(chosen) < keyframes else set()
    return sorted(chosen)


def test_each_keyframe_looks_ahead_until_there_are_enough():
    selector = DKSNext(DKSNext.Config(keyframes=3))
    rows = torch.eye(4)[[0, 1, 2, 2, 3]]
    assert selector.select(rows, torch.tensor([1, 0.9, 0.8, 0.1])).keyframes.tolist() == [0, 1, 2]


def by_hand(kind, rows, query, config):
    if kind is MMR:
        return mmr_by_hand(rows, query, config.keyframes, config.relevance_weight)
    if kind is AKS:
        return aks_by_hand(rows, query, config.keyframes, config.score_threshold, config.max_depth)
    if kind is DKSNext:
        return next_by_hand(rows, query, config.keyframes, config.similarity_threshold)
    if kind is KMeans:
        return kmeans_by_hand(rows, config.keyframes, config.iterations)
    return scenes_by_hand(rows, config.keyframes, config.least_change)


CASES = [
    (MMR, {}),
    (MMR, {"relevance_weight": 0.0}),
    (MMR, {"relevance_weight": 0.8}),
    (MMR, {"relevance_weight": 1}),
    (DKSNext, {}),
    (DKSNext, {"similarity_threshold": 0.3}),
    (DKSNext, {"similarity_threshold": 1}),
    (AKS, {}),
    (AKS, {"score_threshold": 0.4}),
    (AKS, {"score_threshold": 0.5, "max_depth": 2}),
    (AKS, {"score_threshold": 0}),
    (AKS, {"max_depth": 0}),
    (KMeans, {}),
    (KMeans, {"iterations": 1}),
    (SceneChange, {}),
    (SceneChange, {"least_change": 0.3}),
]


SIZES = [(frames, dtype) for frames in (1, 2, 40) for dtype in DTYPES]


# More than one block of frames in one type only.
@pytest.mark.parametrize(("frames", "dtype"), [*SIZES, (300, torch.float32)])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_agrees_with_the_reference(kind, options, frames, dtype):
    embeddings, query = scene_embeddings(frames, dim=8, seed=frames, dtype=dtype)
    for keyframes in (1, 7, 13):
        config = kind.Config(keyframes=keyframes, **options)
        selection = kind(config).select(embeddings, query)
        expected = by_hand(kind, embeddings.tolist(), query.tolist(), config)
        assert selection.keyframes.tolist() == expected
        if kind in (*WITH_QUERY, DKSNext):
            (direction,) = units([query.tolist()])
            cosines = [dot(row, direction) for row in units(embeddings.tolist())]
            torch.testing.assert_close(
                selection.relevance, torch.tensor(cosines), rtol=0, atol=1e-6
            )
        else:
            assert selection.relevance is None


@settings(deadline=None)
@given(integer_videos(), st.integers(1, 14), st.integers(1, 4))
def test_kmeans_agrees_where_clusters_stay_empty(video, keyframes, iterations):
    config = KMeans.Config(keyframes=keyframes, iterations=iterations)
    indices = KMeans(config).select(torch.tensor(video[0]).double()).keyframes
    assert indices.tolist() == kmeans_by_hand(video[0], keyframes, iterations)


@settings(deadline=None)
@given(integer_videos(), st.integers(1, 14))
def test_kmeans_takes_no_copies(video, keyframes):
    frames = torch.tensor(video[0]).float()
    indices = KMeans(KMeans.Config(keyframes=keyframes)).select(frames).keyframes
    directions = {tuple(round(x, 9) for x in units([video[0][n]])[0]) for n in indices.tolist()}
    assert len(directions) == len(indices)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 14), st.floats(0, 1))
def test_mmr_is_greedy_at_every_budget(seed, keyframes, weight):
    embeddings, query = scene_embeddings(14, dim=8, seed=seed)
    indices = [
        set(MMR(MMR.Config(keyframes=k, relevance_weight=weight)).select(embeddings, query)
            .keyframes.tolist())
        for k in (keyframes, keyframes + 1)
    ]  # fmt: skip
    assert indices[0] <= indices[1]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("frames", "dim"), [(257, 511), (517, 3)])
def test_equal_frames_tie_and_the_earlier_wins(kind, dtype, frames, dim):
    embeddings, query = scene_embeddings(1, dim, seed=0, dtype=dtype)
    indices = kind(kind.Config(keyframes=4)).select(embeddings.repeat(frames, 1), query).keyframes
    half, quarter = math.ceil(frames / 2), math.ceil(frames / 4)
    expected = {
        MMR: [0, 1, 2, 3],
        AKS: [0, quarter, half, half + math.ceil((frames - half) / 2)],
        KMeans: [0],
        SceneChange: [(frames - 1) // 2],
    }
    assert indices.tolist() == expected[kind]


@pytest.mark.parametrize("kind", EVERY)
def test_different_frames_within_the_budget_are_all_taken(kind):
    embeddings, query = scene_embeddings(9, dim=16, seed=4)
    for keyframes in (9, 10, 1000):
        selection = kind(kind.Config(keyframes=keyframes)).select(embeddings, query)
        assert selection.keyframes.tolist() == list(range(9))


@pytest.mark.parametrize("kind", EVERY)
def test_zero_vectors(kind):
    indices = kind(kind.Config(keyframes=3)).select(torch.zeros(6, 4), torch.zeros(4)).keyframes
    # mmr ties; aks halves 3 + 3 with a budget of 2 + 1, then 2 + 1; kmeans sees copies; zero
    # vectors have the cosine 0, so that scene_change cuts after the first two.
    expected = {MMR: [0, 1, 2], AKS: [0, 2, 3], KMeans: [0], SceneChange: [0, 1, 3]}
    assert indices.tolist() == expected[kind]


def test_kmeans_finds_the_groups():
    generator = torch.Generator().manual_seed(0)
    groups = torch.eye(5).repeat_interleave(torch.tensor([40, 3, 20, 1, 36]), 0)
    embeddings = groups + 0.05 * torch.randn(100, 5, generator=generator)
    indices = KMeans(KMeans.Config(keyframes=5)).select(embeddings).keyframes
    # From equal distances the small groups get no centroid of their own: Lloyd's local optimum.
    assert indices.tolist() == kmeans_by_hand(embeddings.tolist(), 5, 20)
    far = torch.eye(4).repeat_interleave(25, 0) + 0.05 * torch.randn(100, 4, generator=generator)
    four = KMeans(KMeans.Config(keyframes=4)).select(far).keyframes
    assert [n // 25 for n in four.tolist()] == [0, 1, 2, 3]


def test_a_cluster_that_lost_its_frames_gives_none():
    # Both copies start a cluster; ties go to the first, so the second stays empty.
    embeddings = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert KMeans(KMeans.Config(keyframes=3)).select(embeddings).keyframes.tolist() == [0, 3]


def test_scene_change_by_hand():
    scenes = torch.eye(3).repeat_interleave(torch.tensor([3, 4, 1]), 0)
    for keyframes, expected in [(1, [3]), (2, [1, 5]), (3, [1, 4, 7]), (8, [1, 4, 7])]:
        indices = SceneChange(SceneChange.Config(keyframes=keyframes)).select(scenes).keyframes
        assert indices.tolist() == expected
    # A change of exactly 1 is no cut unless it exceeds the least change.
    still = SceneChange(SceneChange.Config(least_change=1.0)).select(scenes).keyframes
    assert still.tolist() == [3]


def test_aks_takes_a_peak_whole_and_spreads_without_one():
    peak = torch.zeros(64)
    peak[10:14] = 1.0
    embeddings = torch.stack([peak, 1 - peak], dim=1)
    query = torch.tensor([1.0, 0.0])
    indices = AKS(AKS.Config(keyframes=4)).select(embeddings, query).keyframes
    assert indices.tolist() == [10, 11, 12, 13]  # 1 - 4/64 above the mean
    strict = AKS(AKS.Config(keyframes=4, score_threshold=0.95)).select(embeddings, query)
    assert strict.keyframes.tolist() == [10, 16, 32, 48]


def test_aks_takes_no_lead_for_a_lead_of_zero():
    embeddings, query = torch.ones(40, 3), torch.tensor([1.0, 2.0, 3.0])
    config = AKS.Config(keyframes=4, score_threshold=0)
    assert AKS(config).select(embeddings, query).keyframes.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", EVERY)
def test_runs_agree_whatever_made_the_rows(kind):
    """The same rows give the same frames: strided, scaled, with a gradient, under autocast."""
    embeddings, query = scene_embeddings(300, dim=16, seed=5)
    selector = kind(kind.Config(keyframes=12))
    plain = selector.select(embeddings, query)
    before = embeddings.clone()
    chunks = torch.cat([chunk.clone() for chunk in embeddings.split(7)])
    columns = embeddings.T.contiguous().T
    scaled = embeddings * torch.tensor([0.25, 0.5, 2.0]).repeat(100)[:, None]
    wide = torch.cat([embeddings, embeddings], dim=1)[:, :16]
    leaf = embeddings.clone().requires_grad_()
    for rows in (embeddings, chunks, columns, scaled, wide, leaf, embeddings.double()):
        again = selector.select(rows, query)
        assert torch.equal(again.keyframes, plain.keyframes)
        if plain.relevance is not None:
            torch.testing.assert_close(again.relevance, plain.relevance, rtol=0, atol=1e-6)
            assert not again.relevance.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selector.select(embeddings, query).keyframes, plain.keyframes)
    assert torch.equal(embeddings, before)


@pytest.mark.parametrize("kind", EVERY)
def test_no_extra_memory_of_the_size_of_the_embeddings(kind):
    embeddings, query = scene_embeddings(5000, dim=64, seed=0)
    with LargestTensor() as largest:
        kind(kind.Config(keyframes=8)).select(embeddings, query)
    assert 5000 <= largest.numbers <= 256 * 64


def test_mmr_never_waits_for_the_device():
    """On the meta device any look at a value raises."""
    embeddings, relevance = torch.empty(40, 8, device="meta"), torch.empty(40, device="meta")
    assert MMR(MMR.Config(keyframes=5))._take(embeddings, relevance).shape == (5,)
