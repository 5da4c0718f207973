"""Slow references in plain Python, in float64 or exact, written from the papers' text."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import strategies as st


@st.composite
def integer_videos(draw):
    """Short integer vectors and a query: equal frames, exact ties and zero vectors abound."""
    dim = draw(st.integers(1, 3))
    vector = st.lists(st.integers(-2, 2), min_size=dim, max_size=dim)
    return draw(st.lists(vector, min_size=1, max_size=12)), draw(vector)


def cosine(a, b):
    """The cosine in float64; 0 for zero vectors."""
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def exact_cosine(a, b):
    """The cosine of integer vectors, squared with its sign kept: exact, and in the same order."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = sum(x * x for x in a) * sum(y * y for y in b)
    return Fraction(dot * abs(dot), lengths) if lengths else Fraction(0)


def slow_dks(frames, query, keyframes, threshold, least=None, similarity=cosine):
    """Algorithm 1 of ViLAMP, line by line; ``least`` is the cut-off of the released code."""
    ranked = sorted(range(len(frames)), key=lambda n: similarity(frames[n], query), reverse=True)
    indices = []
    for n in ranked:
        if least is not None and similarity(frames[n], query) < least:
            break
        redundancy = [similarity(frames[n], frames[k]) for k in indices]
        if len(indices) < keyframes and (not indices or max(redundancy) < threshold):
            indices.append(n)
    return sorted(indices)


def slow_gaps(indices, frames, keyframes):
    """The released code's filling of gaps, as `released_vilamp.md` describes it."""
    keep = [n in indices for n in range(frames)]
    slots = keyframes - len(indices)
    gaps, start = [], None
    for n in range(frames + 1):
        if n < frames and not keep[n]:
            start = n if start is None else start
        elif start is not None:
            gaps.append((start, n - start))
            start = None
    size = 1
    while sum(math.ceil(length / size) - 1 for _, length in gaps) > slots:
        size += 1
    for start, length in gaps:
        extra = math.ceil(length / size) - 1
        step = math.ceil(length / (extra + 1))
        for i in range(extra):
            keep[start + step * (i + 1)] = True
    for n in reversed(range(frames)):
        if sum(keep) < min(frames, keyframes):
            keep[n] = True
    return [n for n in range(frames) if keep[n]]


def apply(linear, x):
    """``W x + b``, or x where there is no map."""
    if linear is None:
        return x
    weight, bias = linear.weight.double().tolist(), linear.bias.double().tolist()
    rows = [math.fsum(w * v for w, v in zip(row, x, strict=True)) for row in weight]
    return [row + b for row, b in zip(rows, bias, strict=True)]


def softmax(scores, temperature):
    exps = [math.exp((score - max(scores)) / temperature) for score in scores]
    return [e / math.fsum(exps) for e in exps]


def slow_dfm_token(patches, keyframe, query, temperature=0.01):
    """The token ``[1, D]`` of a frame ``[M, D]``, Eq. 5-10 of ViLAMP; ``keyframe`` may be None."""
    rows, query = patches.double().tolist(), query.double().tolist()
    before = [None] * len(rows) if keyframe is None else keyframe.double().tolist()
    saliency = [
        cosine(row, query) - (0.0 if other is None else cosine(row, other))
        for row, other in zip(rows, before, strict=True)
    ]
    weights = torch.tensor(softmax(saliency, temperature), dtype=torch.float64)
    return (weights @ patches.double())[None]


def slow_dfm(merger, patches, reference, has_reference, query):
    """Eq. 5-10 of ViLAMP, one number at a time; the division of Eq. 9 included."""
    names = ("linear_q", "linear_iq", "linear_ik", "linear_k")
    to_q, to_iq, to_ik, to_k = (getattr(merger, name, None) for name in names)
    weight, alpha = merger.config.redundancy_weight, merger.config.temperature
    q = apply(to_q, query.double().tolist())
    merged = []
    for frame, keyframe, known in zip(
        patches.double().tolist(), reference.double().tolist(), has_reference, strict=True
    ):
        relevance = [cosine(apply(to_iq, patch), q) for patch in frame]
        redundancy = [
            cosine(apply(to_ik, patch), apply(to_k, before)) if known else 0.0
            for patch, before in zip(frame, keyframe, strict=True)
        ]
        weights = softmax(
            [r - weight * s for r, s in zip(relevance, redundancy, strict=True)], alpha
        )
        columns = zip(*frame, strict=True)
        token = [math.fsum(w * x for w, x in zip(weights, c, strict=True)) for c in columns]
        merged.append([[x / math.fsum(weights) for x in token]])
    return torch.tensor(merged, dtype=torch.float64)
