"""HoliTom: merge over time the tokens that stand still, and keep the salient ones of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number, require_whole
from vtc.interfaces.segment_merger import SegmentMerger
from vtc.interfaces.token_budget import FrameStatistics, TokenBudget, VideoPatches
from vtc_mergers._arithmetic import exact_dtype
from vtc_mergers._checks import check_patches
from vtc_mergers._segments import by_saliency, density_peaks, one_hot_rows
from vtc_mergers._sharing import counts_by_weight, other_frames, patches_of, require_max_tokens

_NEIGHBOURS = 7


class Windows(NamedTuple):
    """The windows of a video.

    Attributes:
        numbers: ``[N]`` int64, ascending, the window of each frame.
        still: ``[W]`` int64, the number of places of each window whose tokens stand still.
        left: The share of the video's tokens that are left when those are merged over time.
    """

    numbers: Tensor
    still: Tensor
    left: float


class HoliTom(SegmentMerger):
    """Merges the tokens that stand still over a window of frames, and keeps salient others.

    The stage before the language model of HoliTom (Shao et al., "HoliTom: Holistic Token Merging
    for Fast Video Large Language Models", NeurIPS 2025). A place stands still between two frames
    if the cosine of its tokens is above ``threshold``, and in a window if it does so between all
    its frames. Dynamic programming chooses the windows in which most tokens can be left out. With
    that share of the tokens gone, the share r to keep becomes r' = min(1, r / (the share left)). In
    a window, the tokens that stand still are averaged over time; r' of these means stay, with the
    position of the window's first frame: density peaks, each ``centre_weight`` times itself plus
    the rest times the mean of the other tokens nearest to it. Of its other tokens, each frame keeps
    the share r' to which the vision tower attends most.

    Made from the authors' code with its defaults, in which no other tokens are merged (D = 0). They
    add noise to the densities; here ties go to the earlier token. Their windows may have up to
    1,024 frames. With a budget each frame gets exactly its tokens. The stage inside the language
    model is not implemented. Needs no query.

    About (4 + n T) M D multiplications per frame of a window of n frames with T tokens each, and
    M D more for the windows; memory O(n M D + n T M).
    """

    source = "HoliTom, NeurIPS 2025, outer stage"
    query_source = None
    uses_reference = False
    uses_saliency: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``holitom``; the defaults are the authors', but for ``longest``.

        Attributes:
            share: In [0, 1], r, the share of all tokens that is kept without a budget.
            threshold: tau, the cosine above which a token stands still.
            centre_weight: In [0, 1], beta, the weight of a density peak in its token.
            longest: The largest number of frames of a window, at least 1; all are in memory.
        """

        share: float = 0.1
        threshold: float = 0.8
        centre_weight: float = 0.6
        longest: int = 32

        def __post_init__(self) -> None:
            require_number("share", self.share, 0, 1)
            require_number("threshold", self.threshold, -2, 2)
            require_number("centre_weight", self.centre_weight, 0, 1)
            require_whole("longest", self.longest)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return (self.config.share * sizes.M * sizes.n + 4) * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        weights = 2 * self.config.share * sizes.M * sizes.n * sizes.M
        return max(3 * (sizes.n - 1) * sizes.M * sizes.D, weights)

    def survey(self, patches: VideoPatches) -> Windows:
        return windows_of(patches, self.config.threshold, self.config.longest)

    def segments(self, survey: Any) -> Tensor:
        windows: Windows = survey
        return windows.numbers

    def condense(
        self,
        patches: Tensor,
        saliency: Tensor | None,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
        survey: Any = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        check_patches("holitom", patches)
        frames, count = patches.shape[:2]
        exact = patches.detach().to(exact_dtype(patches))
        is_still = _still(exact[1:], exact[:-1], self.config.threshold).all(dim=0)
        if frames == 1:
            is_still = torch.zeros_like(is_still)
        still, moving = is_still.nonzero().flatten(), (~is_still).nonzero().flatten()
        left = 1.0 if survey is None else survey.left
        means, totals, own = self._counts(count, len(still), frames, tokens, left)
        order = by_saliency(saliency, patches)
        for frame in range(frames):
            ranked = order[frame]
            # The moving tokens first, each kind from the most to the least salient.
            ranked = ranked[is_still[ranked].to(torch.int8).argsort(stable=True)]
            own_still = totals[frame] - own[frame] if frame else 0  # if all moving ones are kept
            indices = torch.cat([ranked[: own[frame]], ranked[len(moving) :][:own_still]])
            rows = one_hot_rows(frame * count + indices, frames * count, exact)
            if frame == 0 and means:
                centres, weights = self._means(exact[:, still], means)
                spread = exact.new_zeros(means, frames, count)
                spread[:, :, still] = weights[:, None] / frames
                indices = torch.cat([indices, still[centres]])
                rows = torch.cat([rows, spread.flatten(1)])
            in_order = indices.argsort()
            yield indices[in_order], rows[in_order]

    def _counts(
        self, count: int, still: int, frames: int, tokens: Sequence[int] | None, left: float
    ) -> tuple[int, list[int], list[int]]:
        """Return the number of means of a window, the tokens of its frames, and the moving ones."""
        moving = count - still
        if tokens is None:
            share = min(1.0, self.config.share / max(left, 1e-9))
            means = round(still * share)
            own = min(moving, ceil(moving * share - 1e-9))
            if not means and not own:
                means, own = (1, 0) if still else (0, 1)  # a window keeps at least one token
            return means, [means + own, *[own] * (frames - 1)], [own] * frames
        means = min(still, round(tokens[0] * still / count))
        means = max(means, tokens[0] - moving) if frames > 1 else 0
        firsts = tokens[0] - means
        return means, list(tokens), [firsts, *(min(total, moving) for total in tokens[1:])]

    def _means(self, still: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Merge the means ``[S, D]`` over time of still tokens into some of them.

        Returns:
            ``[count]`` int64, those that they are merged into, and the weights ``[count, S]``.
        """
        means = still.mean(dim=0)
        centres, distances = density_peaks(means, count, min(_NEIGHBOURS, count))
        nearest = distances[:, centres].argmin(dim=1)
        is_centre = torch.zeros(len(means), dtype=torch.bool, device=means.device)
        is_centre[centres] = True
        members = one_hot_rows(nearest, count, means) * ~is_centre[:, None]
        added = members.sum(dim=0)
        weight = torch.ones_like(added).masked_fill(added > 0, self.config.centre_weight)
        rows = (members * ((1 - weight) / added.clamp(min=1))).T
        rows = rows.scatter_add(1, centres[:, None], weight[:, None])
        return centres, rows


class HoliTomBudget(TokenBudget):
    """Gives the first frame of each window the tokens that stand still as well.

    See `HoliTom`: a share r' of M for the first frame of a window, and of its moving tokens for the
    others, at most M a frame. The total is exact. Give both the same options. Keyframes have no
    share, and their tokens do not stand still for the merger.

    One pass over the video, which the merger ``holitom`` shares; memory O(N M) bits.
    """

    source = HoliTom.source
    uses_patches: ClassVar[bool] = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``holitom``.

        Attributes:
            max_tokens: As for ``even``.
            threshold, longest: As for the merger.
        """

        max_tokens: int | Literal["auto"] = "auto"
        threshold: float = 0.8
        longest: int = 32

        def __post_init__(self) -> None:
            require_max_tokens(self.max_tokens)
            HoliTom.Config(threshold=self.threshold, longest=self.longest)

    config: Config

    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        patches = patches_of(statistics, "holitom")
        windows = windows_of(patches, self.config.threshold, self.config.longest)
        numbers = windows.numbers[other_frames(statistics)]
        count = next(iter(patches)).shape[1]
        weight = (count - windows.still[numbers]).double().clamp(min=1e-3)
        first = torch.cat([numbers[:1] - 1, numbers[:-1]]) != numbers
        return counts_by_weight(statistics, total, torch.where(first, float(count), weight))


def windows_of(patches: VideoPatches, threshold: float, longest: int) -> Windows:
    """Cut a video into windows in which most tokens can be left out, see `HoliTom`."""
    key = ("holitom", threshold, longest)
    return patches.once(key, lambda video: _windows(video, threshold, longest))


def _windows(patches: VideoPatches, threshold: float, longest: int) -> Windows:
    still = _stillness(patches, threshold)
    frames, places = len(still) + 1, still.shape[1]
    gains = _gains(still, longest)
    best, starts = [0], [0]  # of the first frames: the tokens left out, and the last window's start
    for end in range(1, frames):
        most, start = best[-1], end
        for length in range(2, min(end + 1, longest) + 1):
            first = end - length + 1
            value = (best[first - 1] if first else 0) + gains[length][first]
            if value > most:
                most, start = value, first
        best.append(most)
        starts.append(start)
    numbers, counts, end = torch.zeros(frames, dtype=torch.int64), [], frames - 1
    while end >= 0:
        start = starts[end]
        numbers[start] = 1
        length = end - start + 1
        counts.append(gains[length][start] // (length - 1) if length > 1 else 0)
        end = start - 1
    left = 1 - best[-1] / (frames * places)
    return Windows(numbers.cumsum(0) - 1, torch.tensor(counts[::-1]), left)


def _stillness(patches: VideoPatches, threshold: float) -> Tensor:
    """Return ``[N - 1, M]`` bool on the CPU: whether each token stands still until the next."""
    last: Tensor | None = None
    parts, places = [], 0
    for chunk in patches:
        row = chunk if last is None else torch.cat([last, chunk])
        last, places = row[-1:].clone(), chunk.shape[1]
        exact = row.to(exact_dtype(row))
        parts += [_still(a, b, threshold) for a, b in zip(exact[1:], exact[:-1], strict=True)]
    if not parts:
        return torch.empty(0, places, dtype=torch.bool)
    return torch.stack(parts).cpu()


def _still(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    return F.cosine_similarity(a, b, dim=-1) > threshold


def _gains(still: Tensor, longest: int) -> dict[int, list[int]]:
    """Return by length and first frame of a window the tokens that it leaves out."""
    gains, alive = {}, still
    for length in range(2, min(longest, len(still) + 1) + 1):
        if length > 2:
            alive = alive[:-1] & still[length - 2 :]
        gains[length] = (alive.sum(dim=1) * (length - 1)).tolist()
    return gains
