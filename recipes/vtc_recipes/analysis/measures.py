"""The measures of section 3 of ViLAMP: cumulative attention, similarity of frames and patches."""

from __future__ import annotations

import itertools
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

PERCENT = np.arange(101)
"""Where curves are sampled, in per cent of the frames or patches."""
BARS = 20
NEIGHBOURS = 3


def cumulative_share(weights: Tensor) -> Tensor:
    """Return the share of the k largest of some weights, for k from 1.

    Args:
        weights: ``[n]``, at least 0, not all 0.

    >>> cumulative_share(torch.tensor([1.0, 6.0, 3.0]))
    tensor([0.6000, 0.9000, 1.0000], dtype=torch.float64)
    """
    ranked = weights.double().sort(descending=True).values
    return ranked.cumsum(0) / ranked.sum()


def rank(weights: Tensor) -> Tensor:
    """Return the places ``[n]`` of weights from the largest to the smallest, ties in order."""
    return weights.argsort(descending=True, stable=True)


def rank_neighbour_similarity(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Return the mean cosine of each row with the rows nearest in rank.

    Of two rows that are equally near, the one of higher rank is taken.

    Args:
        features: ``[n, D]`` in the order of rank.
        neighbours: Number of other rows, fewer if there are fewer.

    Returns:
        ``[n]`` float64, NaN for a single row.
    """
    unit = F.normalize(features.double(), dim=-1)
    places = torch.arange(len(unit))
    means = []
    for place in places.tolist():
        distance = 2 * (places - place).abs() + (places > place)
        nearest = distance.argsort()[1 : neighbours + 1]
        means.append((unit[nearest] @ unit[place]).mean())
    return torch.stack(means)


def random_pair_similarity(features: Tensor) -> float:
    """Return the mean cosine over all pairs of different rows of ``[n, D]``.

    >>> random_pair_similarity(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    0.3333333333333333
    """
    unit = F.normalize(features.double(), dim=-1)
    count = len(unit)
    total = unit.sum(0).square().sum() - unit.square().sum()
    return float(total / (count * (count - 1))) if count > 1 else float("nan")


def reference_frames(keyframes: Tensor, frames: int) -> Tensor:
    """Return the preceding keyframe of each frame, the first one for those before it.

    Args:
        keyframes: ``[K]`` int64, ascending.
        frames: N.

    Returns:
        ``[N]`` int64.
    """
    before = torch.searchsorted(keyframes, torch.arange(frames), right=True) - 1
    return keyframes[before.clamp(min=0)]


def curve(shares: Tensor) -> NDArray[np.float64]:
    """Return cumulative shares ``[n]`` at 0 to 100 % of the ranks, ``[101]`` in per cent."""
    ranks = np.arange(len(shares) + 1) * 100 / len(shares)
    values = np.concatenate([[0.0], 100 * shares.numpy()])
    return np.asarray(np.interp(PERCENT, ranks, values), dtype=np.float64)


def bars(values: Tensor, count: int = BARS) -> list[float]:
    """Return the means of values ``[n]``, in the order of rank, over equal parts of the ranks.

    With fewer values than parts, neighbouring parts share a value.

    >>> bars(torch.tensor([1.0, 3.0, 5.0, 7.0]), 2), bars(torch.tensor([1.0, 3.0]), 4)
    ([2.0, 6.0], [1.0, 1.0, 3.0, 3.0])
    """
    edges = [ceil(part * len(values) / count) for part in range(count + 1)]
    parts = (values[min(start, end - 1) : end] for start, end in itertools.pairwise(edges))
    return [float(part.double().mean()) for part in parts]


def frame_measures(weights: Tensor, tokens: Tensor) -> dict[str, Any]:
    """Return the measures of Figure 3 for one video.

    A frame is represented by the mean of its visual tokens.

    Args:
        weights: ``[N, M]``, the attention to each token.
        tokens: ``[N, M, D]``, the visual tokens.
    """
    frames = weights.double().sum(1)
    order = rank(frames)
    features = tokens.double().mean(1)
    shares = cumulative_share(frames)
    return {
        "frames": len(frames),
        "attention_to_video": float(frames.sum()),
        "order": order.tolist(),
        "attention": frames.tolist(),
        "cumulative": curve(shares).tolist(),
        "similarity": bars(rank_neighbour_similarity(features[order])),
        "random_similarity": random_pair_similarity(features),
        "frames_for_90_percent": float((shares < 0.9).sum() + 1) / len(frames),
    }


def patch_measures(weights: Tensor, tokens: Tensor, keyframes: int) -> dict[str, Any] | None:
    """Return the measures of Figure 4 for one video; None if every frame is a keyframe.

    The frames with the most attention are the keyframes. Each patch of another frame is compared
    with the patch at its place in the preceding keyframe, the first one for those before it.

    Args:
        weights: ``[N, M]``, the attention to each token.
        tokens: ``[N, M, D]``, the visual tokens.
        keyframes: K, the number of keyframes.
    """
    selected = rank(weights.double().sum(1))[:keyframes].sort().values
    is_key = torch.zeros(len(weights), dtype=torch.bool)
    is_key[selected] = True
    rest = (~is_key).nonzero().flatten()
    if not len(rest):
        return None
    reference = reference_frames(selected, len(weights))[rest]
    similarity = F.cosine_similarity(tokens[rest].float(), tokens[reference].float(), dim=-1)
    attention = weights[rest].double().flatten()
    order = rank(attention)
    shares = cumulative_share(attention)
    return {
        "patches": len(attention),
        "keyframes": selected.tolist(),
        "cumulative": curve(shares).tolist(),
        "similarity": bars(similarity.flatten().double()[order]),
        "random_similarity": random_pair_similarity(tokens[rest].flatten(0, 1)),
        "top_half": float(curve(shares)[50]) / 100,
    }


def mean_measures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean curve, bars and baseline of several videos."""
    return {
        "videos": len(records),
        "cumulative": _mean_columns(records, "cumulative"),
        "similarity": _mean_columns(records, "similarity"),
        "random_similarity": sum(one["random_similarity"] for one in records) / len(records),
    }


def _mean_columns(records: list[dict[str, Any]], name: str) -> list[float]:
    columns = zip(*(record[name] for record in records), strict=True)
    return [sum(column) / len(column) for column in columns]
