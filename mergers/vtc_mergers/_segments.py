"""Segments of a video, and the density peaks of a set of tokens."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.token_budget import VideoPatches
from vtc_mergers._arithmetic import exact_dtype


def transitions_of(patches: VideoPatches) -> Tensor:
    """Return ``[N - 1]`` float64, the cosine of the mean token of each frame and the next."""
    return patches.once("transitions", _transitions)


def _transitions(patches: Iterable[Tensor]) -> Tensor:
    last: Tensor | None = None
    cosines: list[Tensor] = []
    for chunk in patches:
        means = [frame.mean(dim=0, dtype=exact_dtype(frame)) for frame in chunk]
        row = torch.stack(means if last is None else [last, *means])
        last = row[-1].clone()
        cosines += [_cosine(*pair) for pair in zip(row[:-1], row[1:], strict=True)]
    return torch.stack(cosines).double().cpu() if cosines else torch.empty(0, dtype=torch.float64)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=0, eps=1e-8)  # pair by pair, so that chunks do not matter


def segments_of(transitions: Tensor, threshold: float, fewest: int, longest: int) -> Tensor:
    """Cut a video where neighbouring frames are least alike: ``[N]`` int64, ascending from 0.

    Args:
        transitions: ``[N - 1]``, the likeness of each frame and the next.
        threshold: Cut where the likeness is below it.
        fewest: Cut at the lowest ones until there are this many segments; ties go to the earlier.
        longest: Cut longer segments into equal parts.
    """
    below = int((transitions < threshold).sum())
    cuts = transitions.argsort(stable=True)[: max(below, fewest - 1)]
    starts = torch.zeros(len(transitions) + 1, dtype=torch.int64)
    starts[cuts + 1] = 1
    return parted(starts.cumsum(0), longest)


def parted(segments: Tensor, longest: int) -> Tensor:
    """Cut segments ``[N]`` of more than ``longest`` frames into parts of almost equal lengths."""
    lengths = torch.unique_consecutive(segments, return_counts=True)[1].tolist()
    parts: list[int] = []
    for length in lengths:
        count = -(-length // longest)
        parts += [len(part) for part in torch.arange(length).tensor_split(count)]
    return torch.arange(len(parts)).repeat_interleave(torch.tensor(parts))


def by_saliency(saliency: Tensor | None, patches: Tensor) -> Tensor:
    """Return ``[n, M]`` int64, the tokens of each frame from the most to the least salient.

    Ties go to the earlier token; without saliency the order is that of the tokens.
    """
    frames, count = patches.shape[:2]
    if saliency is None:
        return torch.arange(count, device=patches.device).repeat(frames, 1)
    return saliency.argsort(dim=1, descending=True, stable=True)


def density_peaks(tokens: Tensor, count: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """Choose tokens in dense places, far from denser ones (DPC-kNN, Du et al., 2016).

    The density is exp(-mean of the squared distances to the nearest ``neighbours`` tokens, itself
    included); a token's score is its density times the distance to the nearest denser one, or the
    largest distance of all if there is none. Distances are divided by sqrt(D). The authors of the
    methods that use this add noise to break ties; here ties go to the earlier token.

    Args:
        tokens: ``[m, D]`` in at least float32.
        count: The number of tokens to choose, at most m.

    Returns:
        ``[count]`` int64, ascending, and the distances ``[m, m]``.
    """
    # The faster way, by matrix products, is inexact for close tokens.
    distances = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances / tokens.shape[1] ** 0.5
    nearest = distances.topk(min(neighbours, len(tokens)), largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    denser = density[None] > density[:, None]
    gap = torch.where(denser, distances, distances.max()).amin(dim=1)
    order = (gap * density).argsort(descending=True, stable=True)
    return order[:count].sort().values, distances


def one_hot_rows(indices: Tensor, width: int, like: Tensor) -> Tensor:
    """Return ``[len(indices), width]``, rows with a single 1, in at least float32."""
    rows = torch.zeros(len(indices), width, dtype=exact_dtype(like), device=like.device)
    return rows.scatter_(1, indices[:, None], 1.0)
