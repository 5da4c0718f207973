"""Compute the visual tokens of compressed videos from cached features, each distinct one once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc import TokenMerger
from vtc.interfaces.token_budget import SHARED
from vtc.pipeline.budget import in_groups
from vtc.pipeline.budget_merging import cells
from vtc.wrapped.access import toolkit_of
from vtc_recipes.tiny.features import Features

if TYPE_CHECKING:
    from vtc_recipes.tiny.sequences import Dialogue

POOLED = 9
"""Number of tokens of a keyframe."""
_SIDE = 6
"""Number of patches along each side of a frame."""


@dataclass(frozen=True)
class Merges:
    """Distinct frames of several videos to merge.

    Attributes:
        videos: ``[n]`` int64, the video of each frame, ascending.
        patches: ``[n, P, D]`` float32, in the language model's space.
        references: ``[n, P, D]`` float32, patches of the keyframe before each frame.
        has_reference: ``[n]`` bool, whether there is such a keyframe.
        queries: ``[B, Dq]`` of the videos, or None for mergers that take none.
    """

    videos: Tensor
    patches: Tensor
    references: Tensor
    has_reference: Tensor
    queries: Tensor | None

    def at(self, places: Tensor) -> Merges:
        """Return some of the frames."""
        here = places.to(self.patches.device)
        return Merges(
            self.videos[places],
            self.patches[here],
            self.references[here],
            self.has_reference[here],
            self.queries,
        )

    def part(self, patches: Tensor) -> Merges:
        """Return the frames with some of their patches only."""
        here = patches.to(self.patches.device)
        return replace(self, patches=self.patches[:, here], references=self.references[:, here])


def unsupported(merger: TokenMerger) -> Iterator[str]:
    """Yield the requirements of a merger that these sequences do not support."""
    frames, keyframes = torch.tensor([0, 2, 4, 5, 7]), torch.tensor([1, 3, 6])
    preceding = TokenMerger.reference_frames(merger, frames, keyframes)
    if not torch.equal(merger.reference_frames(frames, keyframes), preceding):
        yield "it uses references other than the preceding keyframe; training does not support them"
    if merger.query_source == "frame_encoder_raw":
        yield "it takes the query before normalisation, but training uses normalised queries"


def merge(merger: Any, merges: Merges) -> list[Tensor]:
    """Return the merger's tokens ``[T_i, D]`` of each frame."""
    if hasattr(merger, "merge_batch") and merges.queries is not None:
        queries = merges.queries[merges.videos]
        return list(
            merger.merge_batch(merges.patches, merges.references, merges.has_reference, queries)
        )
    tokens: list[Tensor] = []
    for video in sorted(set(merges.videos.tolist())):
        mask = merges.videos == video
        query = None if merges.queries is None else merges.queries[video]
        frames = (merges.patches[mask], merges.references[mask], merges.has_reference[mask])
        tokens += merger(*frames, query)
    return tokens


def video_tokens(
    vlm: Any, features: Features, dialogues: Sequence[Dialogue], queries: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the distinct visual tokens of a batch of videos, and their indices.

    Whole frames that share a row of the bank share their tokens; so do merged frames with the same
    row, query, reference and number of tokens. So most tokens are computed only once.

    Args:
        vlm: Wrapped model.
        features: Features of the bank; ``merged`` suits the model's connector.
        dialogues: Dialogues about videos of the same length, N frames.
        queries: ``[B, Dq]`` for the merger, or None.

    Returns:
        A table of tokens ``[T, D]``, and the first index and number of each frame's tokens in it,
        each ``[B, N]`` int64.
    """
    toolkit, device = toolkit_of(vlm), vlm.device
    projector = vlm.model.multi_modal_projector
    added: Any = toolkit.connector
    connector = getattr(added, "projectors", [added or projector])[0]
    rows, of_frames = torch.unique(torch.stack([d.rows for d in dialogues]), return_inverse=True)
    is_key = torch.zeros(of_frames.shape, dtype=torch.bool)
    for row, dialogue in zip(is_key, dialogues, strict=True):
        row[dialogue.keyframes] = True
    one = torch.ones(is_key.shape[1], dtype=torch.int64)
    given = torch.stack([one if d.tokens is None else d.tokens for d in dialogues])
    is_whole = is_key | (given == POOLED)  # a budget may leave a non-keyframe all its tokens
    patches = features.kept[rows].to(device, torch.float32)
    (kept,), of_kept = _unique(of_frames[is_whole][:, None])
    projected = projector(patches[kept])
    pooled = vlm.model.apply_pooling(projected) if len(kept) else projected[:, :0]
    pooled = pooled.flatten(0, 1)
    numbers = torch.arange(is_key.shape[1])
    before = torch.where(is_key, numbers, -1).cummax(1).values
    reference = torch.where(before >= 0, of_frames.gather(1, before.clamp(min=0)), -1)
    videos = torch.arange(len(is_key))[:, None].expand_as(is_key)
    grouped = torch.stack([in_groups(row) for row in given]) & ~is_whole
    alone = ~is_whole & ~grouped & (given > 0)

    def distinct(mask: Tensor) -> tuple[Merges, Tensor, Tensor]:
        columns = torch.stack([videos, of_frames, reference, given.clamp(min=1)], -1)
        (video, frame, key, count), number = _unique(columns[mask])
        references, has_reference = dense[key.clamp(min=0)], (key >= 0).to(device)
        merges = Merges(video, dense[frame], references, has_reference, queries)
        return merges, count, number

    with torch.autocast(device.type, enabled=False):  # bfloat16 is too coarse at temperature 0.01
        dense = connector(features.merged[rows].to(device, torch.float32))
        merges, count, of_merges = distinct(alone)
        merged = merge_to(toolkit.merger, merges, count)
        counts = torch.tensor([len(tokens) for tokens in merged], dtype=torch.int64)
        groups = dense[:0, 0]
        if bool(grouped.any()):
            with torch.no_grad():  # most of a long video; the other frames train the merger
                merges, _, number = distinct(grouped)
                leads = grouped & (given != SHARED)
                groups = share(toolkit.merger, merges, number, leads[grouped])
    table = torch.cat([pooled.float(), *merged, groups])
    places, lengths = torch.zeros_like(of_frames), torch.zeros_like(of_frames)
    places[is_whole], lengths[is_whole] = of_kept * POOLED, POOLED
    places[alone] = (len(pooled) + counts.cumsum(0) - counts)[of_merges]
    lengths[alone] = counts[of_merges]
    if len(groups):
        places[leads], lengths[leads] = torch.arange(len(table) - len(groups), len(table)), 1
    return table, places, lengths


def merge_to(merger: Any, merges: Merges, count: Tensor) -> list[Tensor]:
    """Merge frames to ``count`` ``[n]`` tokens each, as `BudgetMerging` does."""
    tokens: list[Tensor] = [torch.empty(0)] * len(count)
    for number in torch.unique(count).tolist():
        at = (count == number).nonzero()[:, 0]
        here = merges if len(at) == len(count) else merges.at(at)
        split, _ = cells((_SIDE, _SIDE), merges.patches.shape[1], number)
        parts = [merge(merger, here.part(part)) for part in split] if number > 1 else []
        rows = [torch.cat(row) for row in zip(*parts, strict=True)] or merge(merger, here)
        for place, row in zip(at.tolist(), rows, strict=True):
            tokens[place] = row
    return tokens


def share(merger: Any, merges: Merges, number: Tensor, leads: Tensor) -> Tensor:
    """Return the tokens ``[G, D]`` of groups of frames: means, weighted by mass.

    Args:
        merger: The merger.
        merges: The distinct frames.
        number: ``[n]`` int64, the distinct frame of each frame in a group, group by group.
        leads: ``[n]`` bool, the first frame of each group.
    """
    tokens = torch.cat(merge(merger, merges))
    number = number.to(tokens.device)
    mass = log_mass(merger, merges)[number]
    group = (leads.cumsum(0) - 1).to(tokens.device)
    count = int(leads.sum())
    top = mass.new_full((count,), -torch.inf).scatter_reduce(0, group, mass, "amax")
    weight = (mass - top[group]).exp()
    total = mass.new_zeros(count).index_add(0, group, weight)
    weighted = (weight / total[group])[:, None] * tokens[number]
    return tokens.new_zeros(count, tokens.shape[1]).index_add(0, group, weighted)


def log_mass(merger: Any, merges: Merges) -> Tensor:
    """Return the merger's `TokenMerger.log_mass` of each frame, ``[n]`` float32."""
    frames = (merges.patches, merges.references, merges.has_reference)
    if hasattr(merger, "log_mass_batch") and merges.queries is not None:
        mass: Tensor = merger.log_mass_batch(*frames, merges.queries[merges.videos])
        return mass
    masses = []
    for video in torch.unique(merges.videos).tolist():
        mask = merges.videos == video
        query = None if merges.queries is None else merges.queries[video]
        masses.append(merger.log_mass(*(part[mask] for part in frames), query))
    return torch.cat(masses)


def _unique(rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the columns of the distinct rows of ``[n, c]``, and the index of each row in them."""
    distinct, numbers = torch.unique(rows, dim=0, return_inverse=True)
    return distinct.unbind(-1), numbers
