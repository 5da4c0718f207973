"""The shipped mergers against slow float64 references, and what any merger must keep."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import slow_dfm

from vtc.testing import LargestTensor
from vtc_mergers.dfm import DFM
from vtc_mergers.drop import Drop
from vtc_mergers.mean_pool import MeanPool
from vtc_mergers.q_former import QFormer

PATCH_DIM, QUERY_DIM = 6, 4
MERGERS = {
    "dfm": DFM,
    "dfm learned": lambda: DFM(DFM.Config(projection="learned")),
    "mean_pool": MeanPool,
    "q_former": lambda: QFormer(QFormer.Config(tokens=2)),
    "drop": Drop,
}


def built(name, patch_dim=PATCH_DIM, seed=0):
    """A merger with parameters of a size that matters, biases included."""
    merger = MERGERS[name]()
    merger.build(patch_dim, QUERY_DIM)
    generator = torch.Generator().manual_seed(seed)
    for parameter in merger.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return merger


def frames_for(merger, n=5, patches=7, dim=PATCH_DIM, seed=0, dtype=torch.float32):
    """Arguments of ``forward``; the first two frames have no reference."""
    generator = torch.Generator().manual_seed(seed)
    query_dim = QUERY_DIM if merger.query_source == "frame_encoder" else dim
    return (
        torch.randn(n, patches, dim, generator=generator).to(dtype),
        torch.randn(n, patches, dim, generator=generator).to(dtype),
        torch.arange(n) >= 2,
        torch.randn(query_dim, generator=generator).to(dtype),
    )


def slow_q_former(merger, patches):
    """The layer of ``q_former`` with a softmax for every query, head and frame."""

    def norm(layer, x):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt()
        return centred / scale * layer.weight.double() + layer.bias.double()

    def linear(layer, x):
        bias = 0 if layer.bias is None else layer.bias.double()
        return x @ layer.weight.double().T + bias

    first, wide, _, narrow = merger.feed_forward
    queries = merger.queries.double()
    width = queries.shape[1] // merger.heads
    merged = []
    for frame in patches.double():
        context = norm(merger.norm_patches, frame)
        projected = linear(merger.to_query, norm(merger.norm_queries, queries))
        keys, values = linear(merger.to_key, context), linear(merger.to_value, context)
        attention = torch.zeros_like(queries)
        for t in range(len(queries)):
            for head in range(merger.heads):
                part = slice(head * width, (head + 1) * width)
                scores = keys[:, part] @ projected[t, part] / math.sqrt(width)
                weights = scores.exp() / scores.exp().sum()
                attention[t, part] = sum(
                    w * v for w, v in zip(weights, values[:, part], strict=True)
                )
        tokens = queries + linear(merger.to_token, attention)
        hidden = linear(wide, norm(first, tokens))
        gelu = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        merged.append(tokens + linear(narrow, gelu))
    return torch.stack(merged)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["dfm", "dfm learned"]),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.sampled_from([0.01, 0.1, 5.0]),
    st.integers(0, 10**6),
)
def test_dfm_is_eq_5_to_10(name, redundancy_weight, temperature, seed):
    merger = built(name, seed=seed)
    merger.config = DFM.Config(
        redundancy_weight=redundancy_weight,
        temperature=temperature,
        projection=merger.config.projection,
    )
    merger.double()
    inputs = frames_for(merger, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(merger(*inputs), slow_dfm(merger, *inputs), rtol=0, atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 4], ids=["as on the CPU", "as elsewhere"])
@pytest.mark.parametrize("name", ["dfm", "dfm learned"])
def test_dfm_of_many_patches_and_of_a_few_frames_at_once(name, at_once, monkeypatch):
    monkeypatch.setattr("vtc_mergers.dfm.frames_at_once", lambda device: at_once)
    merger = built(name).double()
    inputs = frames_for(merger, patches=130, dtype=torch.float64)  # more than stay in the cache
    with torch.no_grad():
        merged = merger(*inputs)
    torch.testing.assert_close(merged, slow_dfm(merger, *inputs), rtol=0, atol=1e-9)
    assert merger.weights(*inputs).shape == (5, 1, 130)


@pytest.mark.parametrize("reference", ["preceding", "released"])
@pytest.mark.parametrize("name", ["dfm", "dfm learned"])
def test_a_batch_of_dfm_equals_frame_by_frame_and_sends_gradients_back(name, reference):
    merger = built(name).double()
    merger.config = replace(merger.config, reference=reference, temperature=0.1)
    videos = [frames_for(merger, patches=130, seed=seed, dtype=torch.float64) for seed in (0, 1)]
    patches, references, known, queries = (torch.stack(x) for x in zip(*videos, strict=True))
    references = references.masked_fill(~known[..., None, None], math.nan)
    patches.requires_grad_()
    merged = merger.merge_batch(patches, references, known, queries[:, None])
    expected = torch.stack([merger(*video) for video in videos])
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-12)
    flat = (patches.flatten(0, 1), references.flatten(0, 1), known.flatten())
    one_each = merger.merge_batch(*flat, queries.repeat_interleave(5, 0))
    torch.testing.assert_close(one_each, merged.flatten(0, 1), rtol=0, atol=1e-12)
    mass = merger.log_mass_batch(patches, references, known, queries[:, None])
    expected = torch.stack([merger.log_mass(*video) for video in videos])
    torch.testing.assert_close(mass, expected, rtol=0, atol=1e-6)  # both float32
    merged.square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in (patches, *merger.parameters()))
    with pytest.raises(ValueError, match=r"expected a query \[.*, got \[2, 1, 1\]"):
        merger.merge_batch(patches, references, known, queries[:, None, :1])


@pytest.mark.parametrize("name", ["dfm", "dfm learned"])
def test_released_references_are_the_frame_itself_before_the_first_keyframe(name):
    merger = built(name)
    inputs = frames_for(merger, dtype=torch.float64)
    merger.double().config = replace(merger.config, reference="released", temperature=0.3)
    patches, reference, known, query = inputs
    assert known.any() and not known.all()
    itself = torch.where(known[:, None, None], reference, patches)
    expected = slow_dfm(merger, patches, itself, torch.ones_like(known), query)
    unknown = reference.masked_fill(~known[:, None, None], math.nan)
    torch.testing.assert_close(merger(patches, unknown, known, query), expected, rtol=0, atol=1e-9)


def test_reference_frames():
    frames, keyframes = torch.tensor([0, 1, 3, 4, 7, 9]), torch.tensor([2, 5, 6, 8])
    assert MeanPool().reference_frames(frames, keyframes).tolist() == [-1, -1, 2, 2, 6, 8]
    released = DFM(DFM.Config(reference="released"))
    assert released.reference_frames(frames, keyframes).tolist() == [-1, -1, 0, 0, 2, 3]
    for merger in (DFM(), released):
        assert merger.reference_frames(frames, keyframes[:0]).tolist() == [-1] * 6
        assert merger.reference_frames(frames[:0], keyframes).tolist() == []


@pytest.mark.parametrize("name", ["dfm", "dfm learned"])
def test_dfm_scores_in_float32_at_least(name):
    merger = built(name)
    inputs = frames_for(merger, n=20, patches=50)
    expected = slow_dfm(merger, *inputs).float()
    torch.testing.assert_close(merger(*inputs), expected, rtol=0, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = merger(*inputs)
    # Under autocast the learned maps may be rounded; the scores and the sum may not.
    if name == "dfm":
        torch.testing.assert_close(rounded, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["dfm", "mean_pool"])
def test_half_precision_is_rounded_once(name, dtype):
    merger = built(name)
    inputs = frames_for(merger, n=20, patches=50, dtype=dtype)
    slow = slow_dfm(merger, *inputs) if name == "dfm" else inputs[0].double().mean(1, keepdim=True)
    torch.testing.assert_close(merger(*inputs), slow.to(dtype), rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("dim", [6, 128])
def test_q_former_is_cross_attention(dim):
    merger = built("q_former", dim).double()
    for parameter in merger.parameters():
        parameter.data /= math.sqrt(dim)
    patches, *rest = frames_for(merger, dim=dim, dtype=torch.float64)
    assert merger.heads == {6: 1, 128: 2}[dim]
    expected = slow_q_former(merger, patches)
    torch.testing.assert_close(merger(patches, *rest), expected, rtol=0, atol=1e-9)


def test_mean_pool_is_the_mean_and_drop_is_nothing():
    patches, *rest = frames_for(MeanPool())
    merged = MeanPool()(patches, *rest)
    expected = [[[math.fsum(c) / 7 for c in zip(*f, strict=True)]] for f in patches.tolist()]
    torch.testing.assert_close(merged, torch.tensor(expected))
    assert Drop()(patches, *rest).shape == (5, 0, PATCH_DIM)
    assert Drop.tokens_per_frame == 0


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(MERGERS)), st.permutations(range(7)), st.integers(0, 99))
def test_the_order_of_patches_does_not_matter(name, order, seed):
    merger = built(name)
    patches, reference, known, query = frames_for(merger, seed=seed)
    plain = merger(patches, reference, known, query)
    shuffled = merger(patches[:, order], reference[:, order], known, query)
    torch.testing.assert_close(shuffled, plain, rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["dfm", "dfm learned", "mean_pool"]), st.integers(0, 10**6))
def test_merged_tokens_lie_among_the_patches(name, seed):
    merger = built(name, seed=seed)
    patches, *rest = frames_for(merger, seed=seed)
    # A constant column is reproduced only by weights that sum to one.
    patches[..., 0] = 3.0
    merged = merger(patches, *rest)
    torch.testing.assert_close(merged[..., 0], torch.full((5, 1), 3.0))
    assert (merged <= patches.amax(1, keepdim=True) + 1e-5).all()
    assert (merged >= patches.amin(1, keepdim=True) - 1e-5).all()


def test_dfm_prefers_what_is_relevant_and_new():
    query = torch.tensor([1.0, 0.0, 0.0])
    on_query, off_query = [1.0, 0.0, 0.2], [0.0, 1.0, 0.0]
    patches = torch.tensor([[on_query, off_query]])
    nothing, known = torch.tensor([False]), torch.tensor([True])
    merged = DFM()(patches, patches, nothing, query)
    torch.testing.assert_close(merged, patches[:, :1])
    # Both patches are as in the keyframe but for the first half of the pair below.
    pair = torch.tensor([[on_query, on_query]])
    reference = torch.tensor([[off_query, on_query]])
    changed = pair + torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.01]]])
    merged = DFM()(changed, reference, known, query)
    torch.testing.assert_close(merged, changed[:, :1])


def test_dfm_at_a_high_temperature_is_the_mean():
    patches, *rest = frames_for(DFM())
    flat = DFM(DFM.Config(temperature=1e6))(patches, *rest)
    torch.testing.assert_close(flat, patches.mean(1, keepdim=True))


def test_dfm_without_redundancy_ignores_the_reference():
    merger = DFM(DFM.Config(redundancy_weight=0.0))
    patches, reference, known, query = frames_for(merger)
    plain = merger(patches, reference, known, query)
    assert torch.equal(merger(patches, -reference, known, query), plain)
    weighing = DFM()
    assert not torch.equal(
        weighing(patches, -reference, known, query), weighing(patches, reference, known, query)
    )


def test_without_references_the_keyframe_maps_have_a_zero_gradient():
    merger = built("dfm learned")
    patches, reference, known, query = frames_for(merger)
    merger(patches, reference, torch.zeros_like(known), query).square().sum().backward()
    for linear in (merger.linear_k, merger.linear_ik):
        assert not linear.weight.grad.any()
    for linear in (merger.linear_q, merger.linear_iq):
        assert linear.weight.grad.any()


def test_released_maps():
    merger = DFM(DFM.Config(projection="learned"))
    merger.build(patch_dim=8, query_dim=5)
    shapes = {name: tuple(value.shape) for name, value in merger.state_dict().items()}
    square = {f"linear_{name}.weight": (8, 8) for name in ("iq", "ik", "k")}
    biases = {f"linear_{name}.bias": (8,) for name in ("q", "iq", "ik", "k")}
    assert shapes == {"linear_q.weight": (8, 5), **square, **biases}


@pytest.mark.parametrize("name", ["dfm", "dfm learned"])
def test_dfm_makes_nothing_larger_than_a_frame(name):
    merger = built(name)
    inputs = frames_for(merger, n=8, patches=100, dtype=torch.bfloat16)
    with torch.no_grad(), LargestTensor() as largest:
        merger.to(torch.bfloat16)(*inputs)
    assert largest.numbers == 100 * PATCH_DIM
