"""The shipped selectors against slow references, exact where ties decide."""

from __future__ import annotations

import math
from fractions import Fraction
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cosine, exact_cosine, integer_videos, slow_dks, slow_gaps
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from vtc.testing import LargestTensor, scene_embeddings
from vtc_selectors._gaps import fill_gaps
from vtc_selectors.dks import DKS
from vtc_selectors.query_guided import QueryGuided
from vtc_selectors.uniform import Uniform

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
RANKING = [DKS, QueryGuided]


thresholds = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 0.6, 0.8, 0.85, 1.0])


@settings(deadline=None)
@given(integer_videos(), st.integers(1, 14), thresholds)
def test_dks_is_algorithm_1_with_exact_ties(video, keyframes, threshold):
    frames, query = video
    selector = DKS(DKS.Config(keyframes=keyframes, similarity_threshold=threshold))
    indices = selector.select(torch.tensor(frames).float(), torch.tensor(query).float()).keyframes
    squared = Fraction(str(threshold)) * abs(Fraction(str(threshold)))
    expected = slow_dks(frames, query, keyframes, squared, similarity=exact_cosine)
    assert indices.tolist() == expected
    assert as_on_a_gpu(selector, torch.tensor(frames).float(), torch.tensor(query).float()) == (
        expected
    )


def as_on_a_gpu(selector, embeddings, query):
    """The keyframes by the way of GPUs, run on the CPU."""
    with mock.patch.object(DKS, "_visit", DKS._visit_without_waiting):
        return selector.select(embeddings, query).keyframes.tolist()


def test_dks_on_a_gpu_waits_for_nothing_in_its_loop():
    """Fake tensors have no values, so whatever would look at one fails."""
    selector = DKS(DKS.Config(keyframes=5))
    with FakeTensorMode():
        embeddings = torch.randn(40, 8)
        assert selector._places(embeddings).shape == (5,)
        with pytest.raises(DataDependentOutputException):  # the CPU path reads values
            selector._visit(embeddings, torch.arange(40))


def test_dks_on_a_gpu_compiles_without_a_graph_break():
    torch.manual_seed(0)
    selector = DKS(DKS.Config(keyframes=5, similarity_threshold=0.3))
    vectors = torch.nn.functional.normalize(torch.randn(40, 8), dim=1)
    torch.compiler.reset()
    compiled = torch.compile(selector._places, fullgraph=True, backend="eager")
    places = compiled(vectors)
    assert places[places < 40].tolist() == selector._visit(vectors, torch.arange(40)).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frames", [1, 7, 300])
@pytest.mark.parametrize("least", [None, 0.05])
def test_dks_is_algorithm_1(dtype, frames, least):
    embeddings, query = scene_embeddings(frames, dim=16, seed=frames, dtype=dtype)
    config = DKS.Config(keyframes=12, similarity_threshold=0.8, relevance_threshold=least)
    selection = DKS(config).select(embeddings, query)
    rows, query_row = embeddings.double().tolist(), query.double().tolist()
    assert selection.keyframes.tolist() == slow_dks(rows, query_row, 12, 0.8, least)
    assert as_on_a_gpu(DKS(config), embeddings, query) == selection.keyframes.tolist()
    expected = torch.tensor([cosine(row, query_row) for row in rows])
    torch.testing.assert_close(selection.relevance, expected, rtol=0, atol=1e-6)


def test_dks_goes_beyond_one_block():
    embeddings, query = scene_embeddings(700, dim=4, seed=3)
    indices = DKS(DKS.Config(keyframes=700)).select(embeddings, query).keyframes
    rows = embeddings.tolist()
    assert indices.tolist() == slow_dks(rows, query.tolist(), 700, 0.85)


@settings(deadline=None)
@given(st.integers(0, 50), st.sampled_from(RANKING), st.randoms(use_true_random=False))
def test_shuffled_frames_give_the_same_frames(seed, kind, random):
    embeddings, query = scene_embeddings(20, dim=8, seed=seed)
    order = list(range(20))
    random.shuffle(order)
    selector = kind(kind.Config(keyframes=6))
    plain = selector.select(embeddings, query).keyframes
    shuffled = selector.select(embeddings[order], query).keyframes
    assert {order[n] for n in shuffled.tolist()} == set(plain.tolist())


@settings(deadline=None)
@given(integer_videos(), st.integers(1, 14))
def test_query_guided_takes_the_most_relevant(video, keyframes):
    frames, query = video
    ranked = sorted(range(len(frames)), key=lambda n: -exact_cosine(frames[n], query))
    selector = QueryGuided(QueryGuided.Config(keyframes=keyframes))
    indices = selector.select(torch.tensor(frames).float(), torch.tensor(query).float()).keyframes
    assert indices.tolist() == sorted(ranked[:keyframes])


@given(st.integers(1, 200), st.integers(1, 250))
def test_uniform_takes_midpoints(frames, keyframes):
    indices = Uniform(Uniform.Config(keyframes=keyframes)).select(torch.empty(frames, 0)).keyframes
    if keyframes >= frames:
        expected = list(range(frames))
    else:
        parts = [Fraction(2 * k + 1, 2) * frames / keyframes for k in range(keyframes)]
        expected = [math.floor(part) for part in parts]
    assert indices.tolist() == expected
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("kind", RANKING)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [3, 511, 512])
def test_equal_frames_tie_and_the_earlier_wins(kind, dtype, dim):
    embeddings, query = scene_embeddings(1, dim, seed=0, dtype=dtype)
    # A threshold of 1 refuses nothing but copies, so DKS takes the first alone.
    options = {"similarity_threshold": 1.0} if kind is DKS else {}
    selector = kind(kind.Config(keyframes=4, **options))
    selection = selector.select(embeddings.repeat(517, 1), query)
    assert selection.keyframes.tolist() == ([0] if kind is DKS else [0, 1, 2, 3])
    assert len(selection.relevance.unique()) == 1


def test_only_directions_matter():
    embeddings, query = scene_embeddings(40, dim=8, seed=1)
    plain = DKS().select(embeddings, query)
    scaled = DKS().select(embeddings * torch.linspace(0.1, 9, 40)[:, None], query * 7)
    assert plain.keyframes.tolist() == scaled.keyframes.tolist()
    torch.testing.assert_close(plain.relevance, scaled.relevance, rtol=0, atol=1e-6)


def test_autocast_changes_nothing():
    embeddings, query = scene_embeddings(300, dim=16, seed=5)
    plain = DKS().select(embeddings, query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = DKS().select(embeddings, query)
    assert torch.equal(plain.keyframes, cast.keyframes)
    assert torch.equal(plain.relevance, cast.relevance)


def test_zero_vectors_have_cosine_zero():
    selection = DKS(DKS.Config(keyframes=3)).select(torch.zeros(5, 4), torch.ones(4))
    assert selection.keyframes.tolist() == [0, 1, 2]
    assert selection.relevance.tolist() == [0.0] * 5
    strict = DKS(DKS.Config(similarity_threshold=0.0))
    assert strict.select(torch.zeros(5, 4), torch.zeros(4)).keyframes.tolist() == [0]


def test_no_frame_may_be_relevant_enough():
    embeddings, query = -torch.eye(4), torch.ones(4)
    selection = DKS(DKS.Config(relevance_threshold=0.2)).select(embeddings, query)
    assert selection.keyframes.dtype == torch.int64
    assert selection.keyframes.shape == (0,)
    filled = DKS(DKS.Config(keyframes=2, relevance_threshold=0.2, fill="gaps"))
    assert filled.select(embeddings, query).keyframes.tolist() == [2, 3]


def test_released_options_fill_up_to_the_budget():
    embeddings, query = scene_embeddings(60, dim=16, seed=2)
    config = DKS.Config(keyframes=20, fill="gaps", relevance_threshold=0.2)
    indices = DKS(config).select(embeddings, query).keyframes
    rows, query_row = embeddings.tolist(), query.tolist()
    greedy = slow_dks(rows, query_row, 20, 0.85, least=0.2)
    assert 0 < len(greedy) < 20
    assert indices.dtype == torch.int64
    assert indices.tolist() == slow_gaps(greedy, 60, 20)


@given(st.data(), st.integers(1, 60), st.integers(1, 70))
def test_gaps_are_filled_as_released(data, frames, keyframes):
    most = min(frames, keyframes)
    indices = data.draw(st.lists(st.integers(0, frames - 1), unique=True, max_size=most))
    filled = fill_gaps(indices, frames, keyframes)
    assert filled == slow_gaps(indices, frames, keyframes)
    assert len(filled) == most


def test_gaps_by_hand():
    # Gaps of 4 and 5 frames, three to spare: parts of at most two frames, 1 + 2 additions.
    assert fill_gaps([4], frames=10, keyframes=4) == [2, 4, 7, 9]
    # One gap of five, one to spare: parts of three. Then none is left.
    assert fill_gaps([0], frames=6, keyframes=2) == [0, 4]
    # Two gaps of three but one to spare: neither can be cut, so the last frame it is.
    assert fill_gaps([3], frames=7, keyframes=2) == [3, 6]


@pytest.mark.parametrize("kind", RANKING)
def test_memory_is_linear_in_frames(kind):
    embeddings, query = scene_embeddings(5000, dim=16, seed=0)
    with LargestTensor() as largest:
        kind().select(embeddings, query)
    assert 5000 <= largest.numbers <= 2 * 5000
