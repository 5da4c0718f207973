"""evs, vidcom2 and vcast, as budgets and pruners: equal to transformers and slow references."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from family_models import CONTRACTS, built
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cosine
from torch import Tensor

import vtc
from vtc.interfaces.token_budget import FrameStatistics, VideoPatches
from vtc.pipeline import encoded_video
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare

NAMES = ["evs", "vidcom2", "vcast"]
seeds = st.integers(0, 10**6)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def statistics(video, keyframes=(), chunk=3):
    return FrameStatistics(
        torch.tensor(keyframes, dtype=torch.int64),
        video.shape[1],
        len(video),
        patches=VideoPatches(lambda: iter(torch.split(video, chunk))),
    )


def prune(name, video, total, keyframes=()):
    """The budget's tokens, and what the pruner of the same name keeps of each frame."""
    known = statistics(video, keyframes)
    tokens = vtc.budget(name).allocate(known, total)
    merger = vtc.merger(name)
    rows = [n for n in range(len(video)) if tokens[n] > 0]
    before = video[[max(n - 1, 0) for n in rows]]
    has = torch.tensor([n > 0 for n in rows], dtype=torch.bool)
    more = {"survey": merger.survey(known.patches)} if merger.uses_survey else {}
    kept = merger.keep(video[rows], before, has, None, tokens[rows].tolist(), **more)
    by_frame = dict(zip(rows, kept, strict=True))
    return tokens, [by_frame.get(n, torch.empty(0)).long().tolist() for n in range(len(video))]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), seeds,
)  # fmt: skip
def test_evs_equals_transformers_token_for_token(frames, patches, rate, still, dtype, seed):
    omni = pytest.importorskip("transformers.models.nemotron_h_omni.modeling_nemotron_h_omni")
    video = draw(frames, patches, 6, seed=seed, dtype=dtype)
    if still and frames > 2:
        video[2] = video[1]  # all its tokens are equally unchanged
    mask = omni.compute_retention_mask(video.flatten(0, 1), frames, rate).view(frames, patches)
    tokens, kept = prune("evs", video, max(patches, int(frames * patches * (1 - rate))))
    assert kept == [row.nonzero().flatten().tolist() for row in mask]
    assert tokens.tolist() == mask.sum(1).tolist()


def slow_vidcom2(video, temperature=0.01):
    """All distances of all tokens, one by one: shares of the frames, scores of the tokens."""
    frames, patches, dim = video.shape
    flat = video.flatten(0, 1).tolist()
    means = [sum(token[c] for token in flat) / len(flat) for c in range(dim)]
    variance = [sum((token[c] - means[c]) ** 2 for token in flat) / len(flat) for c in range(dim)]
    channels = sorted(range(dim), key=variance.__getitem__)[: dim // 2]
    rows = []
    for token in flat:
        length = math.sqrt(sum(token[c] ** 2 for c in channels))
        rows.append([token[c] / length for c in channels])

    def mean(group):
        return [sum(column) / len(group) for column in zip(*group, strict=True)]

    def likeness(row, centre):
        distance = sum((a - b) ** 2 for a, b in zip(row, centre, strict=True))
        return sum(math.exp(-distance / (2 * 2.0**k)) for k in range(-3, 2))

    centre = mean(rows)
    own = [mean(rows[n * patches : (n + 1) * patches]) for n in range(frames)]
    v = [likeness(row, centre) for row in rows]
    f = [likeness(row, own[m // patches]) for m, row in enumerate(rows)]
    per_frame = [-sum(v[n * patches : (n + 1) * patches]) / patches for n in range(frames)]
    top = max(per_frame)
    powers = [math.exp((score - top) / temperature) for score in per_frame]
    p = [power / sum(powers) for power in powers]
    shares = [1 + each - sum(p) / frames for each in p]
    scores = [[a + b for a, b in zip(v, f, strict=True)][n * patches : (n + 1) * patches]
              for n in range(frames)]  # fmt: skip
    return shares, scores


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 70), seeds)
def test_vidcom2_equals_a_slow_reference(frames, patches, total, seed):
    video = draw(frames, patches, 8, seed=seed) + draw(frames, 1, 8, seed=seed + 1)
    shares, scores = slow_vidcom2(video)
    tokens, kept = prune("vidcom2", video, total)
    assert int(tokens.sum()) == min(total, frames * patches)
    ideal = [total / frames * share for share in shares]
    for n, (count, own) in enumerate(zip(tokens.tolist(), ideal, strict=True)):
        if max(ideal) <= patches and min(ideal) >= 1:  # no frame is full, none has less than one
            assert abs(count - own) < 1 + 1e-6
        ranked = sorted(range(patches), key=lambda m: scores[n][m])
        assert kept[n] == sorted(ranked[:count])


def slow_curvature(video):
    means = []
    for frame in video:
        mean = frame.mean(0)
        means.append(mean / mean.norm())
    inner = [
        1 - cosine((means[n] - means[n - 1]).tolist(), (means[n + 1] - means[n]).tolist())
        for n in range(1, len(means) - 1)
    ]
    return [1.0, *inner, 1.0][: len(means)]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 70), seeds)
def test_vcast_equals_a_slow_reference(frames, patches, total, seed):
    video = draw(frames, patches, 6, seed=seed)
    powers = [math.exp(each / 0.7) for each in slow_curvature(video)]
    tokens, kept = prune("vcast", video, total)
    assert int(tokens.sum()) == min(total, frames * patches)
    least = int(total >= frames)
    ideal = [least + (total - least * frames) * power / sum(powers) for power in powers]
    for n, frame in enumerate(video):
        count = int(tokens[n])
        if max(ideal) <= patches:
            assert abs(count - ideal[n]) < 1 + 1e-6
        lengths = [float(token.norm()) for token in frame]
        low, high, mean = min(lengths), max(lengths), frame.mean(0).tolist()
        scores = [
            1 - cosine(token.tolist(), mean) + (length - low) / (high - low + 1e-6)
            for token, length in zip(frame, lengths, strict=True)
        ]
        ranked = sorted(range(patches), key=lambda m: -scores[m])
        assert kept[n] == sorted(ranked[:count])


def test_frames_where_something_happens_get_more():
    video = draw(1, 6, 8).repeat(9, 1, 1) + 0.01 * draw(9, 6, 8, seed=1)
    video[4:] = draw(1, 6, 8, seed=2) + 0.01 * draw(5, 6, 8, seed=3)
    evs, _ = prune("evs", video, 20)
    assert evs[0] == 6 and evs[4] == 6  # the first frame, and the cut
    assert all(evs[n] < 4 for n in range(9) if n not in (0, 4))
    odd = draw(9, 6, 8, seed=4)
    odd[:, :, :4] = 1.0 + 0.01 * odd[:, :, :4]  # channels of low variance: all alike but frame 5
    odd[5, :, :4] *= torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=odd.dtype)
    vidcom2, _ = prune("vidcom2", odd, 20)
    assert vidcom2.argmax() == 5


# --- in models


class Chosen(vtc.FrameSelector):
    uses_query = uses_embeddings = False

    def __init__(self, *keyframes):
        super().__init__()
        self.keyframes = keyframes

    def select(self, embeddings, query=None, timestamps=None):
        return vtc.Selection(torch.tensor(self.keyframes, dtype=torch.int64), None)


def wrapped(family, name, keyframes=(), seed=1, slices=8):
    contract = CONTRACTS[family]
    model, processor = copy.deepcopy(built(family)[0]), built(family)[1]
    each = 2 if family.startswith("qwen") else 1
    inputs = contract.inputs(processor, [contract.video(slices * each, seed)], ["What is red?"])
    with torch.no_grad():
        whole = contract.reference(model, inputs, 0)[0]
        bare = {key: one for key, one in inputs.items() if key != "vtc_frames"}
        stock = model(**bare).logits
    with pytest.warns(UserWarning, match="not registered"):
        vtc.wrap(model, Chosen(*keyframes), name, processor=processor)
    return model, inputs, whole, stock


def tokens_of(model, inputs):
    with torch.no_grad():
        prepared = prepare(Call(model, model.vtc, inputs))
    (rows,) = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    return rows, prepared.report


@pytest.mark.parametrize("family", sorted(CONTRACTS))
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_the_budget_is_held_to_the_token_in_every_family(family, data):
    name = data.draw(st.sampled_from(NAMES))
    keyframes = data.draw(st.sampled_from([(), (2,), (0, 5)]))
    model, inputs, whole, _ = wrapped(family, name, keyframes)
    tail = model.vtc.adapter.tail_length()
    total = data.draw(st.integers(tail + 1, whole.shape[0] * whole.shape[1] + tail))
    model.vtc.budget = vtc.budget(name, max_tokens=total)
    _, report = tokens_of(model, inputs)
    assert report.videos[0].tokens_after == total


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_a_large_budget_gives_the_stock_logits(family, name):
    model, inputs, _, stock = wrapped(family, name)
    model.vtc.budget = vtc.budget(name, max_tokens=10**6)
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.testing.assert_close(logits, stock, atol=1e-5, rtol=0)


@pytest.mark.parametrize("limit", [0, 2000, None], ids=["nothing", "a few frames", "all frames"])
@pytest.mark.parametrize("name", NAMES)
def test_neither_chunks_nor_memory_change_the_tokens(name, limit, monkeypatch):
    if limit is not None:
        monkeypatch.setattr(encoded_video, "default_limit", lambda: limit)
    model, inputs, whole, _ = wrapped("llava_onevision", name, (2,))
    model.double()
    inputs = {
        key: one.double() if isinstance(one, Tensor) and one.is_floating_point() else one
        for key, one in inputs.items()
    }
    model.vtc.budget = vtc.budget(name, max_tokens=16)
    rows = []
    for chunk in (1, 3, 16):
        model.vtc.chunk_slices = chunk
        rows.append(tokens_of(model, inputs)[0])
    assert whole.shape[1] == 4 and len(rows[0]) == 16
    for other in rows[1:]:
        torch.testing.assert_close(other, rows[0], atol=1e-9, rtol=0)


def test_evs_in_a_model_keeps_what_transformers_keeps():
    omni = pytest.importorskip("transformers.models.nemotron_h_omni.modeling_nemotron_h_omni")
    model, inputs, whole, _ = wrapped("llava_onevision", "evs")
    mask = omni.compute_retention_mask(whole.flatten(0, 1), len(whole), 0.5)
    model.vtc.budget = vtc.budget("evs", max_tokens=int(mask.sum()) + 1)  # the newline
    rows, _ = tokens_of(model, inputs)
    torch.testing.assert_close(rows[:-1], whole.flatten(0, 1)[mask], atol=1e-5, rtol=0)


def test_the_tower_runs_once_where_the_video_fits(monkeypatch):
    model, inputs, *_ = wrapped("llava_onevision", "vidcom2")
    model.vtc.budget = vtc.budget("vidcom2", max_tokens=12)
    encode, slices = type(model.vtc.adapter).encode, []

    def counted(adapter, model, pixels):
        features = encode(adapter, model, pixels)
        slices.append(len(features.tokens))
        return features

    monkeypatch.setattr(type(model.vtc.adapter), "encode", counted)
    tokens_of(model, inputs)
    assert sum(slices) == 8
    monkeypatch.setattr(encoded_video, "default_limit", lambda: 0)
    slices.clear()
    tokens_of(model, inputs)
    assert sum(slices) == 8 * 4  # channels, mean, shares of the frames, tokens to keep


def test_gradients_reach_the_projector():
    model, inputs, *_ = wrapped("llava_onevision", "vidcom2")
    model.vtc.budget = vtc.budget("vidcom2", max_tokens=12)
    model(**inputs).logits.sum().backward()
    projector = model.model.multi_modal_projector.linear_1.weight
    assert projector.grad is not None and bool((projector.grad != 0).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_norms_are_the_mean_lengths_of_the_patches(dtype):
    video, reads = draw(5, 3, 6, dtype=dtype), []
    patches = VideoPatches(lambda: iter([reads.append(1) or video[:2], video[2:]]))
    known = FrameStatistics(torch.empty(0, dtype=torch.int64), 3, 5, patches=patches)
    expected = [sum(math.dist(row, [0] * 6) for row in frame) / 3 for frame in video.tolist()]
    for _ in range(2):
        torch.testing.assert_close(known.norms, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert len(reads) == 1
    assert FrameStatistics(known.keyframes, 3, 5).norms is None


class TestEVS(vtc.testing.BudgetContract):
    part = vtc.budget("evs", max_tokens=100)


class TestVidCom2(vtc.testing.BudgetContract):
    part = vtc.budget("vidcom2", max_tokens=100)


class TestVCast(vtc.testing.BudgetContract):
    part = vtc.budget("vcast", max_tokens=100)
