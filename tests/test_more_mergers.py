"""What the mergers of other papers must keep: any dtype, any chunks, odd input, clear errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vtc.plugins.registry import build_part
from vtc_mergers.llama_vid import LlamaVid
from vtc_mergers.memory import Memory
from vtc_mergers.perceiver import Perceiver
from vtc_mergers.similarity_prune import SimilarityPrune
from vtc_mergers.spatial_pool import SpatialPool
from vtc_mergers.tome import ToMe

PATCHES, DIM, QUERY_DIM = 9, 6, 4
MERGERS = {
    "llama_vid": LlamaVid,
    "memory": lambda: Memory(Memory.Config(window=3, frames=2, tokens=4)),
    "perceiver": Perceiver,
    "similarity_prune": lambda: SimilarityPrune(
        SimilarityPrune.Config(similarity_threshold=0.2, tokens=3)
    ),
    "spatial_pool": SpatialPool,
    "tome": lambda: ToMe(ToMe.Config(tokens=4)),
}
TRAINED = ["llama_vid", "perceiver"]


def built(name):
    """A merger with parameters of a size that matters, biases included."""
    merger = MERGERS[name]()
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


def test_what_each_merger_says_of_itself():
    made = {name: make() for name, make in MERGERS.items()}
    assert {name for name, merger in made.items() if merger.needs_training} == set(TRAINED)
    sources = {name: merger.query_source for name, merger in made.items()}
    assert sources == {name: None for name in MERGERS} | {"llama_vid": "frame_encoder"}
    assert {name: merger.tokens_per_frame for name, merger in made.items()} == {
        "llama_vid": 2,
        "memory": 4,
        "perceiver": 4,
        "similarity_prune": 3,
        "spatial_pool": 4,
        "tome": 4,
    }
    assert {name: m.frames_together for name, m in made.items() if m.frames_together > 1} == {
        "memory": 3
    }


def test_defaults_are_those_of_the_docs():
    config = Memory().config
    assert (config.window, config.frames, config.tokens) == (18, 2, 32)
    assert SimilarityPrune().config.similarity_threshold == 0.8


@pytest.mark.parametrize("name", MERGERS)
@pytest.mark.parametrize("patches", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_output_has_the_dtype_of_the_patches(name, patches, weights):
    merged = built(name).to(weights)(*arguments(dtype=patches))
    for tokens in merged:
        assert tokens.dtype == patches and tokens.shape[1] == DIM and tokens.isfinite().all()


@pytest.mark.parametrize("name", ["memory", "similarity_prune", "spatial_pool", "tome"])
def test_half_precision_is_rounded_once(name):
    inputs = arguments(dtype=torch.bfloat16)
    double = [x.double() if x.is_floating_point() else x for x in inputs]
    merged = built(name)(*inputs)
    for tokens, exact in zip(merged, built(name)(*double), strict=True):
        torch.testing.assert_close(tokens, exact.to(torch.bfloat16), rtol=2**-7, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = built(name)(*arguments())
    assert same(plain, built(name)(*arguments()))


@pytest.mark.parametrize("name", ["memory", "tome"])
def test_matching_compares_in_float32_under_autocast(name):
    merger, inputs = built(name), arguments(patches=100)
    plain = merger(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(merger(*inputs), plain)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(MERGERS)), st.integers(0, 10), st.integers(1, 4), st.integers(0, 99))
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


@pytest.mark.parametrize("name", MERGERS)
def test_a_reference_that_is_not_there_is_not_looked_at(name):
    merger = built(name)
    patches, reference, known, query = arguments()
    plain = merger(patches, reference, known, query)
    reference[~known] = math.nan
    patches.requires_grad_()
    merged = merger(patches, reference, known, query)
    assert same(merged, plain)
    torch.cat(list(merged)).square().sum().backward()
    assert patches.grad.isfinite().all() and patches.grad.any()
    assert all(p.grad.isfinite().all() for p in merger.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_a_gradient_reaches_every_parameter(name):
    merger = MERGERS[name]()
    torch.manual_seed(0)
    merger.build(DIM, QUERY_DIM)
    merger.double()(*arguments(dtype=torch.float64)).square().sum().backward()
    gradients = {key: p.grad.abs().max().item() for key, p in merger.named_parameters()}
    # Less is the rounding of a gradient that is zero.
    assert gradients and all(gradient > 1e-12 for gradient in gradients.values()), gradients


@pytest.mark.parametrize("name", MERGERS)
def test_parameters_are_made_by_build_from_the_seed(name):
    states = []
    for seed in (1, 1, 2):
        merger = MERGERS[name]()
        assert not list(merger.parameters())
        torch.manual_seed(seed)
        merger.build(DIM, QUERY_DIM)
        states.append(merger.state_dict())
    assert bool(states[0]) == (name in TRAINED)
    assert same(list(states[0].values()), list(states[1].values()))
    assert not states[0] or not same(list(states[0].values()), list(states[2].values()))


@pytest.mark.parametrize("name", MERGERS)
def test_a_frame_of_zeros_is_harmless(name):
    _, reference, known, query = arguments()
    patches = torch.zeros(7, PATCHES, DIM, requires_grad=True)
    merged = built(name)(patches, torch.zeros_like(reference), known, torch.zeros_like(query))
    torch.cat(list(merged)).sum().backward()
    assert torch.cat(list(merged)).isfinite().all() and patches.grad.isfinite().all()


@pytest.mark.parametrize("name", ["memory", "similarity_prune", "spatial_pool", "tome"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_identical_patches_stay_as_they_are(name, count):
    merger = built(name)
    patches, _, known, query = arguments(patches=1)
    alike = patches[:1].repeat(7, count, 1)
    merged = merger(alike, alike, torch.zeros_like(known), query)
    assert sum(len(tokens) for tokens in merged) >= 1
    for token in torch.cat(list(merged)):
        torch.testing.assert_close(token, patches[0, 0])


@pytest.mark.parametrize("name", MERGERS)
def test_no_frames_and_single_patches(name):
    merger = built(name)
    none = merger(*arguments(n=0))
    assert len(none) == 0
    if isinstance(none, torch.Tensor):
        assert none.shape == (0, *merger(*arguments())[0].shape)
    assert all(len(tokens) <= merger.tokens_per_frame for tokens in merger(*arguments(patches=1)))


@pytest.mark.parametrize("name", ["spatial_pool", "tome"])
def test_fewer_patches_than_tokens_stay_as_they_are(name):
    for count in (1, 4):
        patches, *rest = arguments(patches=count)
        assert torch.equal(built(name)(patches, *rest), patches)


@pytest.mark.parametrize("name", MERGERS)
def test_unusable_patches(name):
    merger, (patches, *rest) = built(name), arguments()
    with pytest.raises(ValueError, match=rf"merger '{name}': patches are \[9, 6\]; allowed is"):
        merger(patches[0], *rest)
    with pytest.raises(TypeError, match=rf"merger '{name}': patches are torch\.int64; allowed"):
        merger(patches.long(), *rest)


@pytest.mark.parametrize("name", TRAINED)
def test_parameters_that_were_never_made(name):
    with pytest.raises(RuntimeError, match=rf"'{name}' has no parameters .* build\("):
        MERGERS[name]()(*arguments())


def test_unusable_queries_and_references():
    patches, reference, known, query = arguments()
    with pytest.raises(ValueError, match="merger 'llama_vid' needs a query .* 'mean_pool'"):
        built("llama_vid")(patches, reference, known, None)
    with pytest.raises(ValueError, match=r"query is \[3\]; allowed is \[4\], from the frame enco"):
        built("llama_vid")(patches, reference, known, query[1:])
    with pytest.raises(ValueError, match=r"'similarity_prune': .* reference is \[7, 8, 6\]"):
        built("similarity_prune")(patches, reference[:, 1:], known, None)
    with pytest.raises(TypeError, match=r"has_reference is torch\.int64; allowed is torch\.bool"):
        built("similarity_prune")(patches, reference, known.long(), None)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (ToMe.Config, {"tokens": 0}, "expected tokens to be a whole number of at least 1, got 0"),
        (SpatialPool.Config, {"side": 0}, "expected side to be a whole number .*got 0"),
        (Perceiver.Config, {"tokens": True}, "expected tokens to be a whole number .*got True"),
        (Perceiver.Config, {"layers": 0}, "expected layers to be a whole number .*got 0"),
        (SimilarityPrune.Config, {"tokens": 0}, "expected tokens to be a whole number .*got 0"),
        (
            SimilarityPrune.Config,
            {"similarity_threshold": 1.1},
            r"expected similarity_threshold to be a number from -1 to 1, got 1\.1",
        ),
        (
            SimilarityPrune.Config,
            {"similarity_threshold": math.nan},
            "expected similarity_threshold to be a number .*got nan",
        ),
        (Memory.Config, {"window": 0}, "expected window to be a whole number .*got 0"),
        (Memory.Config, {"frames": 0}, "expected frames to be a whole number .*got 0"),
        (Memory.Config, {"tokens": -1}, "expected tokens to be a whole number .*got -1"),
        (
            Memory.Config,
            {"window": 3, "frames": 4},
            "expected frames to be .* of at most window=3, got 4",
        ),
    ],
)
def test_options_out_of_range(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize(
    "spec",
    [
        "dfm",
        {"name": "dfm", "projection": "learned"},
        "mean_pool",
        "q_former",
        "drop",
        "tome",
        "spatial_pool",
        "llama_vid",
        "perceiver",
    ],
    ids=str,
)
@torch.no_grad()
def test_mergers_compile_without_a_graph_break(spec):
    merger = build_part("merger", spec)
    merger.build(16, 16)
    patches, reference = torch.randn(2, 3, 36, 16)
    arguments = patches, reference, torch.tensor([False, True, True]), torch.randn(16)
    torch.compiler.reset()
    compiled = torch.compile(merger, fullgraph=True, backend="eager")(*arguments)
    for found, expected in zip(compiled, merger(*arguments), strict=True):
        torch.testing.assert_close(found, expected)
