"""divprune, cdpruner, dycoke and the controls against slow float64 references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import cosine

import vtc

DIM = 6
seeds = st.integers(0, 10**6)


def merge(name, patches, query=None, **options):
    known = torch.zeros(len(patches), dtype=torch.bool)
    return vtc.merger(name, **options)(patches, torch.full_like(patches, math.nan), known, query)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_divprune(frame, tokens):
    """Every patch compared with every kept one, in each step."""
    keep = []
    while len(keep) < min(tokens, len(frame)):
        others = keep or range(len(frame))
        nearest = {
            m: min((1 - cosine(frame[m], frame[k]) for k in others if k != m), default=0.0)
            for m in range(len(frame))
            if m not in keep
        }
        keep.append(max(nearest, key=nearest.get))
    return sorted(keep)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), seeds)
def test_divprune_is_greedy_max_min_diversity(patches, tokens, seed):
    frames = draw(2, patches, DIM, seed=seed)
    expected = [frame[slow_divprune(frame.tolist(), tokens)] for frame in frames]
    assert torch.equal(merge("divprune", frames, tokens=tokens), torch.stack(expected))


def slow_cdpruner(frame, query, tokens, theta):
    """Full determinants of the kernel in place of Cholesky updates."""
    relevance = [cosine(patch, query) for patch in frame]
    low, span = min(relevance), max(relevance) - min(relevance)
    scaled = [(r - low) / span if span else 0.0 for r in relevance]
    quality = [math.exp(theta / (2 * (1 - theta)) * r) for r in scaled]

    def log_det(keep):
        rows = [[quality[i] * cosine(frame[i], frame[j]) * quality[j] for j in keep] for i in keep]
        return np.linalg.slogdet(rows)[1]

    keep = []
    while len(keep) < min(tokens, len(frame)):
        rest = [m for m in range(len(frame)) if m not in keep]
        keep.append(max(rest, key=lambda m: round(log_det([*keep, m]), 9)))
    return sorted(keep)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.9]), seeds)
@example(12, 3, 0.5, 0)
@example(12, 3, 0.5, 1)
def test_cdpruner_is_a_greedy_dpp(patches, tokens, theta, seed):
    frames, query = draw(2, patches, DIM, seed=seed), draw(DIM, seed=seed + 1)
    kept = merge("cdpruner", frames, query, tokens=tokens, relevance_weight=theta)
    rows = [slow_cdpruner(f.tolist(), query.tolist(), tokens, theta) for f in frames]
    assert torch.equal(kept, torch.stack([f[r] for f, r in zip(frames, rows, strict=True)]))


def slow_dycoke(frames, share):
    """Groups of four: frame 1 whole, 2 against 1, 3 against 1, 4 against 3."""
    keep = []
    for n, frame in enumerate(frames):
        role, first = n % 4, n - n % 4
        if role == 0:
            keep.append(list(range(len(frame))))
            continue
        other = frames[first + {1: 0, 2: 0, 3: 2}[role]]
        alike = [round(cosine(a, b), 12) for a, b in zip(frame, other, strict=True)]
        ranked = sorted(range(len(frame)), key=lambda m: alike[m])
        keep.append(sorted(ranked[: math.floor(round(share * len(frame), 6))]))
    return keep


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 11), st.integers(1, 20), st.sampled_from([0.0, 0.3, 0.7, 1.0]), seeds)
def test_dycoke_keeps_what_changes_within_groups_of_four(n, patches, share, seed):
    frames = draw(n, patches, DIM, seed=seed)
    kept = merge("dycoke", frames, share=share)
    for frame, tokens, rows in zip(frames, kept, slow_dycoke(frames.tolist(), share), strict=True):
        assert torch.equal(tokens, frame[rows])


@pytest.mark.parametrize(("tokens", "cells"), [(1, (1, 1)), (6, (2, 3)), (9, (3, 3)), (16, (4, 4))])
def test_downsample_pools_to_the_grid_nearest_in_shape(tokens, cells):
    frames = draw(2, 36, DIM)
    picture = frames.transpose(1, 2).reshape(2, DIM, 6, 6)
    sizes = [cells] if cells[0] == cells[1] else [cells, cells[::-1]]
    pooled = [F.adaptive_avg_pool2d(picture, size).flatten(2).transpose(1, 2) for size in sizes]
    merged = merge("downsample", frames, tokens=tokens)
    assert merged.shape == (2, tokens, DIM)
    assert any(torch.allclose(merged, each) for each in pooled)


def test_downsample_of_a_small_grid_gives_fewer_tokens():
    merged = merge("downsample", draw(2, 9, DIM), tokens=5)
    assert [tuple(tokens.shape) for tokens in merged] == [(4, DIM), (4, DIM)]


def test_random_keeps_each_patch_equally_often_and_the_same_places_in_all_frames():
    counts, frames = torch.zeros(8), torch.arange(8.0).view(1, 8, 1).repeat(3, 1, 1)
    for seed in range(1500):
        kept = merge("random", frames, tokens=2, seed=seed)
        assert torch.equal(kept[0], kept[1])
        counts[kept[0, :, 0].long()] += 1
    assert (counts / 1500 - 1 / 4).abs().max() < 0.05
    assert torch.equal(merge("random", frames, tokens=2), merge("random", frames, tokens=2))
