"""What all mergers keep beyond their contract: each bit in any chunk, seeds, odd patches."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vtc.plugins.registry import build_part

PATCHES, DIM, QUERY_DIM = 9, 16, 16  # frames of whole cache lines: alignment changes rounding
SPECS = {
    "dfm": "dfm",
    "dfm warm": {"name": "dfm", "temperature": 0.5},
    "dfm learned": {"name": "dfm", "projection": "learned"},
    "cdpruner": {"name": "cdpruner", "tokens": 4},
    "divprune": {"name": "divprune", "tokens": 4},
    "downsample": {"name": "downsample", "tokens": 4},
    "drop": "drop",
    "dycoke": "dycoke",
    "hico": {"name": "hico", "frames": 3, "tokens": 4},
    "llama_vid": "llama_vid",
    "mean_pool": "mean_pool",
    "memory": {"name": "memory", "window": 3, "frames": 2, "tokens": 4},
    "perceiver": "perceiver",
    "q_former": {"name": "q_former", "tokens": 2},
    "random": {"name": "random", "tokens": 4},
    "similarity_prune": {"name": "similarity_prune", "similarity_threshold": 0.2, "tokens": 3},
    "spatial_pool": "spatial_pool",
    "tome": {"name": "tome", "tokens": 4},
}
TRAINED = {"dfm learned", "llama_vid", "perceiver", "q_former"}
UNTRAINED = SPECS.keys() - TRAINED
DATA_DEPENDENT = {"dycoke", "memory", "random", "similarity_prune"}
"""Mergers that torch.compile cannot compile whole."""


def unbuilt(name):
    return build_part("merger", SPECS[name])


def built(name):
    """A merger with parameters of a size that matters, biases included."""
    merger = unbuilt(name)
    merger.build(DIM, QUERY_DIM)
    generator = torch.Generator().manual_seed(0)
    for parameter in merger.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return merger


def arguments(n=7, patches=PATCHES, seed=0, dtype=torch.float32):
    """Arguments of ``forward``; the first two frames have no reference."""
    generator = torch.Generator().manual_seed(seed)
    frames, reference = (torch.randn(n, patches, DIM, generator=generator) for _ in range(2))
    query = torch.randn(QUERY_DIM, generator=generator)
    return frames.to(dtype), reference.to(dtype), torch.arange(n) >= 2, query.to(dtype)


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", sorted(UNTRAINED - {"dfm", "dfm warm", "drop", "mean_pool"}))
def test_half_precision_is_rounded_once(name):
    inputs = arguments(dtype=torch.bfloat16)
    double = [x.double() if x.is_floating_point() else x for x in inputs]
    merged = built(name)(*inputs)
    for tokens, exact in zip(merged, built(name)(*double), strict=True):
        torch.testing.assert_close(tokens, exact.to(torch.bfloat16), rtol=2**-7, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = built(name)(*arguments())
    assert same(plain, built(name)(*arguments()))


@pytest.mark.parametrize("name", ["hico", "memory", "tome"])
def test_matching_compares_in_float32_under_autocast(name):
    merger, inputs = built(name), arguments(patches=100)
    plain = merger(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(merger(*inputs), plain)


# A matrix product of q_former may round otherwise for another number of frames.
@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(SPECS.keys() - {"q_former"})),
    st.integers(0, 10),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_chunks_do_not_change_a_bit(name, n, groups, seed):
    merger = built(name)
    *frames, query = arguments(n=n, seed=seed)
    whole, size = merger(*frames, query), groups * merger.frames_together
    parts = [
        tokens
        for i in range(0, n, size)
        for tokens in merger(*(x[i : i + size].clone() for x in frames), query)
    ]
    assert same(parts, whole)


@pytest.mark.parametrize("name", SPECS)
def test_build_draws_parameters_from_the_seed(name):
    states = []
    for seed in (1, 1, 2):
        merger = unbuilt(name)
        assert not list(merger.parameters())
        torch.manual_seed(seed)
        merger.build(64, QUERY_DIM)
        states.append(merger.state_dict())
    assert bool(states[0]) == merger.needs_training == (name in TRAINED)
    assert same(list(states[0].values()), list(states[1].values()))
    assert not states[0] or not same(list(states[0].values()), list(states[2].values()))
    assert all(value.ndim > 0 for value in states[0].values())  # FSDP2 shards no numbers


@pytest.mark.parametrize("name", SPECS)
def test_weights_are_shares_of_one(name):
    merger = built(name).double()
    weights = merger.weights(*arguments(dtype=torch.float64))
    no_weighted_sum = {"hico", "llama_vid", "memory", "perceiver", "q_former"}
    assert (weights is None) == (name in no_weighted_sum)
    for rows in [] if weights is None else weights:
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)).double())


@pytest.mark.parametrize("name", SPECS)
def test_unusable_arguments_are_named(name):
    merger, (patches, reference, known, query) = built(name), arguments()
    label = f"merger '{name.split()[0]}'"
    with pytest.raises(
        ValueError, match=rf"^{label}: expected patches \[n, M, D\].* got \[9, 16\]"
    ):
        merger(patches[0], reference, known, query)
    with pytest.raises(ValueError, match=rf"^{label}: expected patches .* got \[7, 0, 16\]"):
        merger(patches[:, :0], reference[:, :0], known, query)
    with pytest.raises(TypeError, match=rf"^{label}: expected floating-point patches, got"):
        merger(patches.long(), reference, known, query)
    if name in TRAINED:
        with pytest.raises(RuntimeError, match=rf"^{label} has no parameters .* build\("):
            unbuilt(name)(patches, reference, known, query)
    if merger.query_source is not None:
        with pytest.raises(ValueError, match=rf"^{label} needs a query, got None"):
            merger(patches, reference, known, None)
        with pytest.raises(ValueError, match=rf"^{label}: expected a query \[16\] .* got \[15\]"):
            merger(patches, reference, known, query[1:])
    if name.startswith("dfm") or name == "similarity_prune":
        with pytest.raises(
            ValueError, match=rf"^{label}.* got \[7, 9, 16\], \[7, 8, 16\] and \[7\]"
        ):
            merger(patches, reference[:, 1:], known, query)
        with pytest.raises(TypeError, match=rf"^{label}: expected has_reference of torch.bool"):
            merger(patches, reference, known.long(), query)


@pytest.mark.parametrize("name", ["hico", "memory", "similarity_prune", "spatial_pool", "tome"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_identical_patches_stay_as_they_are(name, count):
    merger = built(name)
    patches, _, known, query = arguments(patches=1)
    alike = patches[:1].repeat(7, count, 1)
    merged = merger(alike, alike, torch.zeros_like(known), query)
    assert sum(len(tokens) for tokens in merged) >= 1
    for token in torch.cat(list(merged)):
        torch.testing.assert_close(token, patches[0, 0])


@pytest.mark.parametrize("name", ["hico", "spatial_pool", "tome"])
def test_fewer_patches_than_tokens_stay_as_they_are(name):
    for count in (1, 4):
        patches, *rest = arguments(patches=count)
        assert torch.equal(built(name)(patches, *rest), patches)


@pytest.mark.parametrize("name", sorted(SPECS.keys() - DATA_DEPENDENT))
@torch.no_grad()
def test_mergers_compile_without_a_graph_break(name):
    merger = unbuilt(name)
    merger.build(16, 16)
    patches, reference = torch.randn(2, 3, 36, 16)
    arguments = patches, reference, torch.tensor([False, True, True]), torch.randn(16)
    torch.compiler.reset()
    compiled = torch.compile(merger, fullgraph=True, backend="eager")(*arguments)
    for tokens, expected in zip(compiled, merger(*arguments), strict=True):
        torch.testing.assert_close(tokens, expected)


@torch.no_grad()
def test_dfm_compiles_one_frame_for_any_number_of_frames():
    torch.manual_seed(0)
    patches, reference, query = torch.randn(5, 16, 8), torch.randn(5, 16, 8), torch.randn(8)
    has_reference = torch.tensor([False, True, True, True, True])
    programs = []

    def note(graph, inputs):
        programs.append(graph)
        return graph.forward

    eager = build_part("merger", "dfm")
    merger = copy.deepcopy(eager)
    torch.compiler.reset()
    merger.compile(fullgraph=True, backend=note)
    for count in (5, 3, 1):
        arguments = patches[:count], reference[:count], has_reference[:count], query
        assert torch.equal(merger(*arguments), eager(*arguments))
        assert torch.equal(merger.weights(*arguments), eager.weights(*arguments))
    assert len(programs) == 1
    for twin in (copy.deepcopy(merger), pickle.loads(pickle.dumps(merger))):
        assert torch.equal(twin(*arguments), eager(*arguments))
    assert len(programs) == 1
