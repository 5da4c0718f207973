"""FastVID: salient tokens of each frame, and density peaks of some frames of each segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number, require_whole
from vtc.interfaces.segment_merger import SegmentMerger
from vtc.interfaces.token_budget import FrameStatistics, TokenBudget, VideoPatches
from vtc_mergers._arithmetic import exact_dtype, without_autocast
from vtc_mergers._checks import check_patches
from vtc_mergers._pruning import share_to_keep
from vtc_mergers._segments import (
    by_saliency,
    density_peaks,
    one_hot_rows,
    segments_of,
    transitions_of,
)
from vtc_mergers._sharing import counts_by_weight, other_frames, patches_of, require_max_tokens

_NEIGHBOURS = 4


class FastVID(SegmentMerger):
    """Keeps the salient tokens of each frame, and merges the others into those of anchor frames.

    FastVID (Shen et al., "FastVID: Dynamic Density Pruning for Fast Video Large Language Models",
    NeurIPS 2025). The video is cut where the mean tokens of neighbouring frames are least alike.
    A frame keeps the tokens to which the vision tower attends most. Every fourth frame of a
    segment, counted from its last, is an anchor: it has the tokens in which the other frames of
    the segment are short, those that are density peaks among its tokens that are not salient.
    Every token of the segment that is not salient is added to the most similar one of each anchor
    frame: the result is w times the peak plus 1 - w times the mean of the c tokens added, with w =
    max(1 / (c + 1), ``anchor_weight``).

    Made from the authors' code. They cut by the output of SigLIP's pooling head and rank by its
    attention; here by the mean token, and by the last layer's attention. They add noise to the
    densities; here ties go to the earlier token. Their segments may have any length. With a budget
    each frame gets exactly its tokens, and salient ones are as many as the mean frame of the
    segment would keep. Needs no query.

    About (M^2 / p + 2 n T M) D multiplications per frame of a segment of n frames with T tokens
    each; memory O(n M D + n T M).
    """

    source = "FastVID, NeurIPS 2025"
    query_source = None
    uses_reference = False
    uses_saliency: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``fastvid``; the defaults are the authors', but for ``longest``.

        Attributes:
            share: In [0, 1], r, the share of its tokens that a frame keeps without a budget, at
                least one.
            merged_share: In [0, 1], d, the share of these that are density peaks.
            step: p, at least 1: one in ``step`` frames is an anchor.
            anchor_weight: In [0, 1], beta, the least weight of a density peak in its token.
            threshold: tau, the likeness of neighbouring frames below which the video is cut.
            segments: c, at least 1, the least number of segments.
            longest: The largest number of frames of a segment, at least 1; all are in memory.
        """

        share: float = 0.1
        merged_share: float = 0.4
        step: int = 4
        anchor_weight: float = 0.6
        threshold: float = 0.9
        segments: int = 8
        longest: int = 32

        def __post_init__(self) -> None:
            require_number("share", self.share, 0, 1)
            require_number("merged_share", self.merged_share, 0, 1)
            require_whole("step", self.step)
            require_number("anchor_weight", self.anchor_weight, 0, 1)
            require_number("threshold", self.threshold, -1, 2)
            require_whole("segments", self.segments)
            require_whole("longest", self.longest)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        kept, merged = self._kept(sizes)
        others, anchors = sizes.M - kept + merged, ceil(sizes.n / self.config.step)
        added = anchors * others**2 / sizes.n + others * merged * sizes.n
        return (added + 2 * others + kept * sizes.n * sizes.M) * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        kept, merged = self._kept(sizes)
        others, peaks = sizes.M - kept + merged, merged * self.config.step
        copies = 2 * sizes.n * others * sizes.D
        weights = 3 * (kept + peaks) * sizes.n * sizes.M
        return max(copies, copies / 2 + weights + 3 * others**2)

    def _kept(self, sizes: Sizes) -> tuple[float, float]:
        """Return the tokens of a frame, and how many of them are merged."""
        kept = max(1, floor(self.config.share * sizes.M + 1e-9))
        return kept, floor(self.config.merged_share * kept + 1e-9)

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
        check_patches("fastvid", patches)
        frames, count = patches.shape[:2]
        totals, salient = self._counts(patches, tokens)
        exact = patches.detach().to(exact_dtype(patches))
        order = by_saliency(saliency, patches)
        rest = [row[number:].sort().values for row, number in zip(order, salient, strict=True)]
        others = torch.cat([frame * count + row for frame, row in enumerate(rest)])
        directions = F.normalize(exact.flatten(0, 1)[others], dim=1)
        for frame in range(frames):
            kept = order[frame, : salient[frame]]
            peaks = kept[:0]
            rows = one_hot_rows(frame * count + kept, frames * count, exact)
            if totals[frame] > salient[frame]:
                number = totals[frame] - salient[frame]
                own = exact[frame][rest[frame]]
                at, _ = density_peaks(own, number, _NEIGHBOURS)
                peaks = rest[frame][at]
                added, weight = self._added(own[at], directions, others, frames * count)
                peak_rows = one_hot_rows(frame * count + peaks, frames * count, exact)
                rows = torch.cat([rows, weight[:, None] * peak_rows + added])
            indices = torch.cat([kept, peaks])
            in_order = indices.argsort()
            yield indices[in_order], rows[in_order]

    def _counts(self, patches: Tensor, tokens: Sequence[int] | None) -> tuple[list[int], list[int]]:
        """Return the tokens of each frame of a segment, and how many of them are salient."""
        frames, count = patches.shape[:2]
        anchors = anchors_of(frames, self.config.step)
        if tokens is None:
            [kept] = share_to_keep(patches[:1], self.config.share, None)
            merged = floor(self.config.merged_share * kept + 1e-9)
            salient = kept - merged
            extra = merged * frames // len(anchors)
            totals = [
                min(count, salient + extra) if frame in anchors else salient
                for frame in range(frames)
            ]
            return totals, [salient] * frames
        mean = sum(tokens) / frames
        salient = round(mean - floor(self.config.merged_share * mean + 1e-9))
        own = [
            min(total, salient) if frame in anchors else total for frame, total in enumerate(tokens)
        ]
        return list(tokens), own

    def _added(
        self, peaks: Tensor, directions: Tensor, others: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        """Return the weights ``[T, width]`` of the tokens added to T peaks, and the peaks' own."""
        with without_autocast(peaks.device):
            nearest = (directions @ F.normalize(peaks, dim=1).T).argmax(dim=1)
        added = peaks.new_zeros(len(peaks)).index_add(0, nearest, peaks.new_ones(len(nearest)))
        weight = (1 / (added + 1)).clamp(min=self.config.anchor_weight)
        weight = weight.masked_fill(added == 0, 1.0)
        shares = (1 - weight) / added.clamp(min=1)
        rows = peaks.new_zeros(len(peaks), width)
        rows[nearest, others] = shares[nearest]
        return rows, weight


class FastVIDBudget(TokenBudget):
    """Gives the anchor frames of each segment the tokens in which the other frames are short.

    See `FastVID`: of equal shares of all frames, a share of ``merged_share`` moves to one in
    ``step`` frames of each segment, at most M tokens a frame. The authors round each frame's
    number down; here the total is exact. Give both the same options. Keyframes have no share.

    One pass over the video, which the merger ``fastvid`` shares; memory O(N + D).
    """

    source = FastVID.source
    uses_patches: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``fastvid``.

        Attributes:
            max_tokens: As for ``even``.
            merged_share, step, threshold, segments, longest: As for the merger.
        """

        max_tokens: int | Literal["auto"] = "auto"
        merged_share: float = 0.4
        step: int = 4
        threshold: float = 0.9
        segments: int = 8
        longest: int = 32

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)
            FastVID.Config(
                merged_share=self.merged_share,
                step=self.step,
                threshold=self.threshold,
                segments=self.segments,
                longest=self.longest,
            )

    config: Config

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        known, patches = self.config, patches_of(statistics, "fastvid")
        numbers = segments_of(
            transitions_of(patches), known.threshold, known.segments, known.longest
        )[other_frames(statistics)]
        weights = []
        for length in torch.unique_consecutive(numbers, return_counts=True)[1].tolist():
            anchors = anchors_of(length, known.step)
            weight = torch.full((length,), max(1 - known.merged_share, 1e-3))
            weight[anchors] += known.merged_share * length / len(anchors)
            weights.append(weight)
        return counts_by_weight(statistics, total, torch.cat([torch.empty(0), *weights]))


def anchors_of(frames: int, step: int) -> list[int]:
    """Return the anchor frames of a segment: every ``step``-th, counted from the last."""
    return list(range((frames - 1) % step, frames, step))
