"""FlashVID: salient and different tokens of each frame, and trees of similar tokens over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number, require_whole
from vtc.interfaces.segment_merger import SegmentMerger
from vtc.interfaces.token_budget import VideoPatches
from vtc_mergers._arithmetic import exact_dtype, without_autocast
from vtc_mergers._checks import check_patches
from vtc_mergers._pruning import cosine_matrix
from vtc_mergers._segments import density_peaks, one_hot_rows, segments_of, transitions_of
from vtc_mergers._sharing import whole_numbers

_NEIGHBOURS = 7


class FlashVID(SegmentMerger):
    """Keeps salient tokens that differ, and merges the others along trees over time.

    The stage before the language model of FlashVID (Fan et al., "FlashVID: Efficient Video Large
    Language Models via Training-free Tree-based Spatiotemporal Token Merging", ICLR 2026). The
    video is cut as by ``fastvid``. Each frame keeps ``salient_share`` of its T tokens: greedily the
    one whose smallest distance (1 - cosine) to those already kept, times its saliency, times its
    product with the mean token of the segment, is largest. Each other token joins the most similar
    one of the frame before if their cosine is above ``tree_threshold``, but no more than leave the
    segment its tokens. The mean of a tree takes the place of its first token. If there are more
    trees than tokens, those that begin in the same frame are merged around density peaks.

    Made from the authors' code. They give each frame its number of trees times a ratio, rounded up;
    here the total is exact. They add noise to the densities; here ties go to the earlier token.
    Their T is larger by the factor 1.25, as they prune again inside the language model, which is
    not implemented. With a budget each frame gets exactly its tokens. Needs no query.

    About (3 M + n T) M D multiplications per frame of a segment of n frames with T tokens each;
    memory O(n M D + n T M).
    """

    source = "FlashVID, ICLR 2026, outer stage"
    query_source = None
    uses_reference = False
    uses_saliency: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``flashvid``; the defaults are the authors', but for ``longest``.

        Attributes:
            share: In [0, 1], r, the share of its tokens that a frame keeps without a budget,
                rounded up, at least one.
            salient_share: In [0, 1], alpha, the share of these that are kept unchanged.
            tree_threshold: The cosine above which a token joins one of the frame before.
            threshold: The likeness of neighbouring frames below which the video is cut.
            segments: At least 1, the least number of segments.
            longest: The largest number of frames of a segment, at least 1; all are in memory.
        """

        share: float = 0.25
        salient_share: float = 0.7
        tree_threshold: float = 0.8
        threshold: float = 0.9
        segments: int = 8
        longest: int = 32

        def __post_init__(self) -> None:
            require_number("share", self.share, 0, 1)
            require_number("salient_share", self.salient_share, 0, 1)
            require_number("tree_threshold", self.tree_threshold, -2, 2)
            require_number("threshold", self.threshold, -1, 2)
            require_whole("segments", self.segments)
            require_whole("longest", self.longest)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        tokens = self.config.share * sizes.M
        others = sizes.M - self.config.salient_share * tokens
        return (2 * sizes.M**2 + others**2 + (tokens * sizes.n + 4) * sizes.M) * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        frames = 3 * sizes.n * sizes.M * sizes.D
        return max(frames, 2 * frames / 3 + 3 * self.config.share * sizes.n * sizes.M**2)

    def survey(self, patches: VideoPatches) -> Tensor:
        known = self.config
        return segments_of(transitions_of(patches), known.threshold, known.segments, known.longest)

    def segments(self, survey: Any) -> Tensor:
        segments: Tensor = survey
        return segments

    def condense(
        self,
        patches: Tensor,
        saliency: Tensor | None,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
        survey: Any = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        check_patches("flashvid", patches)
        frames, count = patches.shape[:2]
        equal = min(count, max(1, ceil(self.config.share * count - 1e-9)))
        totals = [equal] * frames if tokens is None else list(tokens)
        exact = patches.detach().to(exact_dtype(patches))
        salient = [ceil(self.config.salient_share * total - 1e-9) for total in totals]
        kept = _salient(exact, saliency, salient)
        parents = _trees(exact, kept, totals, self.config.tree_threshold, tokens is None)
        roots = _roots(parents)
        is_root = roots == torch.arange(frames * count, device=roots.device).view(frames, count)
        numbers = is_root.sum(dim=1).tolist()  # the only copy from a GPU
        trees = [total - own for total, own in zip(totals, salient, strict=True)]
        if tokens is None:
            trees = _shared(numbers, sum(trees))
        sizes, means = _means(exact, roots)
        first = is_root.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        for frame in range(frames):
            rows = one_hot_rows(frame * count + kept[frame], frames * count, exact)
            own = first[frame, : numbers[frame]]
            places = own[:0]
            if trees[frame]:
                at, distances = density_peaks(
                    means[frame * count + own], trees[frame], min(_NEIGHBOURS, trees[frame])
                )
                places = own[at]
                cluster = distances[:, at].argmin(dim=1)
                cluster[at] = torch.arange(len(at), device=at.device)
                merged = _weights(frame * count + own, cluster, len(at), roots.flatten(), sizes)
                rows = torch.cat([rows, merged])
            indices = torch.cat([kept[frame], places])
            in_order = indices.argsort()
            yield indices[in_order], rows[in_order]


def _salient(exact: Tensor, saliency: Tensor | None, counts: Sequence[int]) -> list[Tensor]:
    """Return for each frame the salient, different tokens ``[count]`` int64, ascending."""
    relevance = exact @ exact.mean(dim=(0, 1))
    weight = relevance if saliency is None else relevance * saliency
    return [
        _spread(frame, scale, count)
        for frame, scale, count in zip(exact, weight, counts, strict=True)
    ]


def _spread(frame: Tensor, weight: Tensor, count: int) -> Tensor:
    """Keep tokens greedily by their smallest distance to those kept times their weight."""
    if count >= len(frame):
        return torch.arange(len(frame), device=frame.device)
    distances = (1 - cosine_matrix(frame)).fill_diagonal_(torch.inf)
    nearest, keep = distances.amin(dim=1), [torch.empty(0, dtype=torch.int64, device=frame.device)]
    for number in range(count):
        score = (nearest * weight).index_fill(0, torch.cat(keep), -torch.inf)
        keep.append(score.argmax(dim=0, keepdim=True))
        row = distances.index_select(0, keep[-1])[0]
        nearest = torch.minimum(nearest, row) if number else row
    return torch.cat(keep).sort().values


def _trees(
    exact: Tensor, kept: list[Tensor], totals: list[int], threshold: float, together: bool
) -> Tensor:
    """Return ``[n, M]`` int64: the token of the frame before that each joins; -1 for none, -2 kept.

    Args:
        totals: The tokens of each frame; so many are not joined, kept ones included.
        together: Whether only the sum of ``totals`` matters.
    """
    frames, count = exact.shape[:2]
    is_kept = torch.zeros(frames, count, dtype=torch.bool, device=exact.device)
    for row, indices in zip(is_kept, kept, strict=True):
        row[indices] = True
    best = exact.new_full((frames, count), -torch.inf)
    parents = torch.zeros(frames, count, dtype=torch.int64, device=exact.device)
    directions = F.normalize(exact, dim=-1)
    with without_autocast(exact.device):
        for frame in range(1, frames):
            cosines = directions[frame] @ directions[frame - 1].T
            cosines = cosines.masked_fill(is_kept[frame - 1], -torch.inf)
            best[frame], parents[frame] = cosines.max(dim=1)
    best = best.masked_fill(is_kept, -torch.inf)
    if together:
        rank = best.flatten().argsort(descending=True, stable=True).argsort().view_as(best)
        most = frames * count - sum(totals)
    else:
        rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        most = count - torch.tensor(totals, device=exact.device)[:, None]  # type: ignore[assignment]
    joins = (best > threshold) & best.isfinite() & (rank < most)
    return torch.where(joins, parents, torch.where(is_kept, -2, -1))


def _roots(parents: Tensor) -> Tensor:
    """Return ``[n, M]`` int64: the first token of each one's tree, among n M; -1 for kept ones."""
    frames, count = parents.shape
    roots = torch.arange(frames * count, device=parents.device).view(frames, count)
    rows = [torch.where(parents[0] == -2, -1, roots[0])]
    for frame in range(1, frames):
        joined = rows[-1][parents[frame].clamp(min=0)]
        own = torch.where(parents[frame] == -2, -1, roots[frame])
        rows.append(torch.where(parents[frame] >= 0, joined, own))
    return torch.stack(rows)


def _shared(numbers: list[int], total: int) -> list[int]:
    """Share tokens among frames in proportion to their numbers of trees, at most one per tree."""
    if total >= sum(numbers):
        return numbers
    quotas = torch.tensor(numbers, dtype=torch.float64) * (total / max(sum(numbers), 1))
    shares: list[int] = whole_numbers(quotas, total, least_one=False).tolist()
    return shares


def _means(exact: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
    """Return the size ``[n M]`` and the mean ``[n M, D]`` of the tree that each token begins."""
    tokens, flat = exact.flatten(0, 1), roots.flatten()
    at, count = flat.clamp(min=0), (flat >= 0).to(exact)
    sizes = torch.zeros_like(count).index_add(0, at, count)
    sums = torch.zeros_like(tokens).index_add(0, at, tokens * count[:, None])
    sizes = sizes.clamp(min=1)
    return sizes, sums / sizes[:, None]


def _weights(own: Tensor, cluster: Tensor, count: int, roots: Tensor, sizes: Tensor) -> Tensor:
    """Return the weights ``[count, n M]`` of all tokens in the clusters of a frame's trees.

    Args:
        own: ``[t]`` int64, the first tokens of the trees.
        cluster: ``[t]`` int64, the cluster of each.
    """
    trees = sizes.new_zeros(count).index_add(0, cluster, sizes.new_ones(len(cluster)))
    of_root = torch.full_like(roots, count).scatter(0, own, cluster)  # `count`: of no cluster here
    share = torch.zeros_like(sizes).scatter(0, own, 1 / (trees[cluster] * sizes[own]))
    at = torch.where(roots >= 0, of_root[roots.clamp(min=0)], count)
    rows = sizes.new_zeros(count + 1, len(roots))
    return rows.scatter(0, at[None], share[roots.clamp(min=0)][None])[:count]
