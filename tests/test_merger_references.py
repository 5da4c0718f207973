"""Mergers of other papers against slow float64 references written from the papers' text."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cosine

from vtc_mergers.hico import HiCo
from vtc_mergers.llama_vid import LlamaVid
from vtc_mergers.memory import Memory
from vtc_mergers.perceiver import Perceiver
from vtc_mergers.similarity_prune import SimilarityPrune
from vtc_mergers.spatial_pool import SpatialPool
from vtc_mergers.tome import ToMe

DIM = 6
seeds = st.integers(0, 10**6)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def call(merger, patches, reference=None, known=None, query=None):
    reference = torch.full_like(patches, math.nan) if reference is None else reference
    known = torch.zeros(len(patches), dtype=torch.bool) if known is None else known
    return merger(patches, reference, known, query)


def average(rows, sizes):
    columns = zip(*rows, strict=True)
    return [math.fsum(s * x for s, x in zip(sizes, c, strict=True)) / sum(sizes) for c in columns]


def slow_tome(frame, tokens):
    """Tokens are (first patch, size, features); one step after the other."""
    state = [(i, 1, patch) for i, patch in enumerate(frame)]
    while len(state) > tokens:
        a, b = state[0::2], state[1::2]
        edges = []
        for i, (_, _, x) in enumerate(a):
            likeness = [cosine(x, y) for _, _, y in b]
            edges.append((-max(likeness), i, likeness.index(max(likeness))))
        chosen = sorted(edges)[: min(len(state) - tokens, len(state) // 2)]
        groups = [[token] for token in b]
        for _, i, j in chosen:
            groups[j].append(a[i])
        gone = {i for _, i, _ in chosen}
        merged = [
            (
                min(first for first, _, _ in group),
                sum(size for _, size, _ in group),
                average([x for _, _, x in group], [size for _, size, _ in group]),
            )
            for group in groups
        ]
        state = [token for i, token in enumerate(a) if i not in gone] + merged
    return [features for _, _, features in sorted(state)]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 20), seeds)
def test_tome_is_bipartite_soft_matching(patches, tokens, seed):
    frames = draw(2, patches, DIM, seed=seed)
    merged = call(ToMe(ToMe.Config(tokens=tokens)), frames)
    slow = torch.tensor([slow_tome(frame, tokens) for frame in frames.tolist()]).double()
    assert merged.shape == (2, min(tokens, patches), DIM)
    torch.testing.assert_close(merged, slow, rtol=0, atol=1e-5)


def test_tome_merges_what_is_alike_and_ties_go_to_the_earlier():
    red, blue = [1.0, 0.0], [0.0, 1.0]
    frame = torch.tensor([[red, red, blue, blue]])
    assert call(ToMe(ToMe.Config(tokens=2)), frame).tolist() == [[red, blue]]
    same = torch.ones(1, 5, 2, dtype=torch.float64)
    shares = ToMe(ToMe.Config(tokens=4)).weights(same, same, torch.tensor([False]), None)
    assert shares[0].tolist() == [
        [0.5, 0.5, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 8), seeds)
def test_spatial_pool_is_the_mean_over_cells(length, side, seed):
    frames = draw(2, length * length, DIM, seed=seed)
    merged = call(SpatialPool(SpatialPool.Config(side=side)), frames)
    cells = min(side, length)
    picture = frames.transpose(1, 2).reshape(2, DIM, length, length)
    expected = F.adaptive_avg_pool2d(picture, cells).flatten(2).transpose(1, 2)
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-12)
    if length % cells == 0:  # plain blocks, by hand
        width = length // cells
        for t in range(cells * cells):
            rows = range(t // cells * width, (t // cells + 1) * width)
            columns = range(t % cells * width, (t % cells + 1) * width)
            block = [frames[1, y * length + x] for y in rows for x in columns]
            torch.testing.assert_close(merged[1, t], sum(block) / len(block))


def test_a_grid_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match=r"6 patches are not a square grid; .* 1, 2, 3, 6, "):
        call(SpatialPool(), draw(1, 6, DIM))
    with pytest.raises(ValueError, match="not a square grid"):
        SpatialPool().weights(draw(0, 6, DIM), draw(0, 6, DIM), torch.ones(0).bool(), None)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 8), seeds)
def test_spatial_pool_of_a_grid_with_rows_is_the_mean_over_cells(height, width, side, seed):
    frames = draw(2, height * width, DIM, seed=seed)
    merged = call(SpatialPool(SpatialPool.Config(side=side, rows=height)), frames)
    picture = frames.transpose(1, 2).reshape(2, DIM, height, width)
    pooled = F.adaptive_avg_pool2d(picture, (min(side, height), min(side, width)))
    torch.testing.assert_close(merged, pooled.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)


def test_rows_that_do_not_fit_the_patches_are_refused():
    six = SpatialPool(SpatialPool.Config(rows=4))
    with pytest.raises(ValueError, match=r"6 patches are not a grid of rows=4; set .* 1, 2, 3, 6$"):
        call(six, draw(1, 6, DIM))
    with pytest.raises(ValueError, match="9 patches are not a grid of rows=4"):  # a square one, too
        call(six, draw(1, 9, DIM))


def linear(layer, x):
    bias = 0 if layer.bias is None else layer.bias
    return x @ layer.weight.T + bias


def trained(merger, seed, query_dim=4):
    """With parameters of a size that matters, in float64."""
    merger.build(DIM, query_dim)
    merger.double()
    for i, parameter in enumerate(merger.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed + i) / 2
    return merger


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), seeds)
def test_llama_vid_is_eq_1_and_a_mean(patches, seed):
    merger = trained(LlamaVid(), seed)
    frames, query = draw(3, patches, DIM, seed=seed), draw(4, seed=seed + 50)
    merged = call(merger, frames, query=query)
    assert merged.shape == (3, 2, DIM)
    direction = linear(merger.to_query, query)
    for frame, (context, content) in zip(frames, merged, strict=True):
        scores = [math.fsum((direction * patch).tolist()) for patch in frame]
        exps = [math.exp(score - max(scores)) for score in scores]
        attention = sum(e / math.fsum(exps) * patch for e, patch in zip(exps, frame, strict=True))
        torch.testing.assert_close(context, linear(merger.to_context, attention))
        torch.testing.assert_close(content, linear(merger.to_content, sum(frame) / patches))


def test_projections_of_llama_vid_start_as_the_identity():
    merger = LlamaVid()
    merger.build(DIM, 4)
    patches = draw(2, 5, DIM).float()
    merged = call(merger, patches, query=torch.zeros(4))
    torch.testing.assert_close(merged, patches.mean(1, keepdim=True).expand(-1, 2, -1))


def norm(layer, x):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt()
    return centred / scale * layer.weight + layer.bias


def slow_perceiver(merger, frame):
    latents = merger.latents
    for layer in merger.layers:
        asking = norm(layer.norm_latents, latents)
        context = torch.cat([norm(layer.norm_patches, frame), asking])
        width = latents.shape[1] // layer.heads
        attention = torch.zeros_like(latents)
        for t in range(len(latents)):
            for head in range(layer.heads):
                part = slice(head * width, (head + 1) * width)
                query = linear(layer.to_query, asking[t])[part]
                scores = linear(layer.to_key, context)[:, part] @ query / math.sqrt(width)
                weights = (scores - scores.max()).exp()
                values = linear(layer.to_value, context)[:, part]
                attention[t, part] = (weights / weights.sum()) @ values
        latents = latents + linear(layer.to_latent, attention)
        first, wide, _, narrow = layer.feed_forward
        hidden = linear(wide, norm(first, latents))
        gelu = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        latents = latents + linear(narrow, gelu)
    return latents


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), seeds)
def test_perceiver_is_flamingos_resampler(patches, tokens, layers, seed):
    merger = trained(Perceiver(Perceiver.Config(tokens=tokens, layers=layers)), seed)
    assert merger.layers[0].feed_forward[1].weight.shape == (4 * DIM, DIM)
    if DIM % 2 == 0:  # several heads, though the width has room for one only
        for layer in merger.layers:
            layer.heads = 2
    frames = draw(2, patches, DIM, seed=seed)
    with torch.no_grad():
        merged = call(merger, frames)
        slow = torch.stack([slow_perceiver(merger, frame) for frame in frames])
    torch.testing.assert_close(merged, slow)


def slow_prune(frame, keyframe, threshold, tokens):
    """Numbers of the patches that stay."""
    if keyframe is None:
        mean = average(frame, [1] * len(frame))
        keyframe, threshold = [mean] * len(frame), math.inf
    ranked = sorted((cosine(x, y), m) for m, (x, y) in enumerate(zip(frame, keyframe, strict=True)))
    return sorted(m for likeness, m in ranked[:tokens] if likeness <= threshold)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([-0.2, 0.3, 0.8]), seeds)
def test_similarity_prune_keeps_what_the_keyframe_lacks(patches, tokens, threshold, seed):
    merger = SimilarityPrune(SimilarityPrune.Config(similarity_threshold=threshold, tokens=tokens))
    frames, reference = draw(6, patches, DIM, seed=seed), draw(6, patches, DIM, seed=seed + 1)
    known = torch.arange(6) >= 2
    kept = call(merger, frames, reference, known)
    for i, frame in enumerate(frames):
        before = reference[i].tolist() if known[i] else None
        expected = slow_prune(frame.tolist(), before, threshold, tokens)
        assert torch.equal(kept[i], frame[expected])
        assert known[i] or len(expected) == min(tokens, patches)


def test_a_frame_like_its_keyframe_vanishes():
    frames = draw(2, 5, DIM)
    kept = call(SimilarityPrune(), frames, 2 * frames, torch.tensor([True, True]))
    assert [tuple(tokens.shape) for tokens in kept] == [(0, DIM)] * 2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 7), st.integers(1, 9), st.integers(1, 4), st.integers(1, 9), seeds)
def test_hico_is_soft_matching_over_clips(n, patches, size, tokens, seed):
    frames = draw(n, patches, DIM, seed=seed)
    merged = call(HiCo(HiCo.Config(frames=size, tokens=tokens)), frames)
    each = min(tokens, patches)
    assert merged.shape == (n, each, DIM)
    for start in range(0, n, size):
        clip = frames[start : start + size]
        slow = slow_tome([patch for frame in clip.tolist() for patch in frame], len(clip) * each)
        slow = torch.tensor(slow, dtype=torch.float64).reshape(len(clip), each, DIM)
        torch.testing.assert_close(merged[start : start + size], slow, rtol=0, atol=1e-9)


def test_hico_merges_a_clip_that_stands_still_over_time():
    picture = torch.eye(3, dtype=torch.float64)
    merged = call(HiCo(HiCo.Config(frames=3, tokens=1)), picture.repeat(3, 1, 1))
    torch.testing.assert_close(merged[:, 0], picture)


def test_hico_of_single_frames_is_tome():
    frames = draw(5, 40, DIM)
    assert torch.equal(call(HiCo(HiCo.Config(frames=1)), frames), call(ToMe(), frames))
    assert not torch.allclose(call(HiCo(), frames), call(ToMe(), frames))


def slow_memory(window, left):
    """Algorithm 1: runs of neighbours as [frames, average of each patch]."""
    state = [([i], frame) for i, frame in enumerate(window)]
    while len(state) > left:
        likeness = []
        for (_, x), (_, y) in zip(state, state[1:], strict=False):
            pairs = [cosine(a, b) for a, b in zip(x, y, strict=True)]
            likeness.append(math.fsum(pairs) / len(pairs))
        m = likeness.index(max(likeness))
        (ours, x), (theirs, y) = state[m], state[m + 1]
        sizes = [len(ours), len(theirs)]
        mixed = [average([a, b], sizes) for a, b in zip(x, y, strict=True)]
        state[m : m + 2] = [(ours + theirs, mixed)]
    return state


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 12), st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), seeds)
def test_memory_is_algorithm_1_in_every_window(n, window, left, tokens, seed):
    left = min(left, window)
    merger = Memory(Memory.Config(window=window, frames=left, tokens=tokens))
    frames = draw(n, 5, DIM, seed=seed)
    merged = call(merger, frames)
    assert len(merged) == n
    for start in range(0, n, window):
        state = slow_memory(frames[start : start + window].tolist(), left)
        assert len(state) == min(left, n - start, window)
        for run, mean in state:
            first, *others = (merged[start + i] for i in run)
            slow = torch.tensor(slow_tome(mean, tokens), dtype=torch.float64)
            torch.testing.assert_close(first, slow, rtol=0, atol=1e-9)
            assert all(other.shape == (0, DIM) for other in others)


@pytest.mark.parametrize("seed", range(40))
def test_memory_follows_frames_that_drift(seed):
    """Long windows, where what was merged before decides what is merged next."""
    frames = draw(12, 2, 3, seed=seed).cumsum(0)
    merged = call(Memory(Memory.Config(window=12, frames=3)), frames)
    firsts = [run[0] for run, _ in slow_memory(frames.tolist(), 3)]
    assert [i for i, tokens in enumerate(merged) if len(tokens)] == firsts


def test_memory_parts_a_window_where_the_picture_changes():
    red, blue = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([[0.0, 1.0]] * 4)
    frames = torch.stack([red, red, red, blue, blue])
    merged = call(Memory(Memory.Config(tokens=1)), frames)
    assert [len(tokens) for tokens in merged] == [1, 0, 0, 1, 0]
    assert torch.equal(merged[0], red[:1]) and torch.equal(merged[3], blue[:1])
    same = call(Memory(Memory.Config(tokens=1)), torch.ones(4, 3, 2, dtype=torch.float64))
    assert [len(tokens) for tokens in same] == [1, 0, 0, 1]  # of equals, the earlier pair first
