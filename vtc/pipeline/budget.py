"""Apply a token budget: find the number of tokens of each slice of a video."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.part import part_errors
from vtc.interfaces.token_budget import SHARED, FrameStatistics
from vtc.interfaces.token_pruner import TokenPruner, takes_budget
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.token_budget import TokenBudget, VideoPatches
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed

_BLOCK = 4096
"""Frames whose embeddings are compared at a time."""


@dataclass(frozen=True)
class Allocation:
    """The tokens of each slice of one video.

    Attributes:
        selection: The keyframes that fit.
        tokens: ``[N]`` int64, as `vtc.TokenBudget.allocate` returns them; M for keyframes.
        limit: The maximum number of visual tokens of the video.
        whole: M, the tokens of a slice that keeps all of them.
    """

    selection: Selection
    tokens: Tensor
    limit: int
    whole: int

    @property
    def is_whole(self) -> Tensor:
        """``[N]`` bool, the slices that keep all their tokens and share none."""
        return (self.tokens == self.whole) & ~in_groups(self.tokens)

    def summary(self) -> dict[str, int]:
        """Return the limit and the counts of slices; see ``VideoReport.budget``."""
        tokens = self.tokens
        leads = in_groups(tokens) & (tokens == 1)
        counts = {
            "whole": self.is_whole,
            "several": (tokens > 1) & ~self.is_whole,
            "one": (tokens == 1) & ~leads & ~self.is_whole,
            "shared": leads | (tokens == SHARED),
            "groups": leads,
            "none": tokens == 0,
        }
        return {"limit": self.limit} | {name: int(mask.sum()) for name, mask in counts.items()}


def in_groups(tokens: Tensor) -> Tensor:
    """Return ``[N]`` bool, the slices that share a token, the first of each group included."""
    is_shared = tokens == SHARED
    return is_shared | torch.cat([is_shared[1:], is_shared.new_zeros(1)])


def require_mergeable(merger: TokenMerger, label: str) -> None:
    """Raise a ValueError unless a merger can make any number of tokens."""
    if not takes_budget(merger):
        raise ValueError(
            f"{label} cannot work with a budget, as it cannot make a given number of tokens per "
            "frame; choose dfm, mean_pool or a pruner such as divprune, or leave out the budget"
        )


def allocate(
    call: Call,
    feed: VideoFeed,
    selection: Selection,
    embeddings: Tensor,
    most: int | None,
    patches: VideoPatches | None = None,
) -> Allocation | None:
    """Share the tokens of the budget among the slices of a video; None without a budget.

    Args:
        embeddings: ``[N, d]``; ``[N, 0]`` if the selector uses none.
        most: The maximum number of tokens of a merged frame (its patches); None if not limited.
        patches: The patches of all frames, for a budget that uses them.

    Raises:
        ValueError: The merger cannot work with a budget, not even one token fits, or the budget
            broke the contract of `vtc.TokenBudget.allocate`.
    """
    budget = call.budget
    if budget is None:
        return None
    require_mergeable(call.merger, label_of("merger", call.merger))
    share = functools.partial(_allocate, call, budget, feed, selection, embeddings, most, patches)
    allocation = (
        _in_context(call, feed, share)
        if budget.max_tokens == "auto"
        else share(int(budget.max_tokens))
    )
    fitting, keyframes = len(allocation.selection.keyframes), len(selection.keyframes)
    if fitting < keyframes:
        call.recorder.warn(
            f"{feed.name}: a budget of {allocation.limit:,} visual tokens holds {fitting} of the "
            f"{keyframes} keyframes of {allocation.whole} tokens each, so the others are merged; "
            "select fewer keyframes or raise the budget"
        )
    return allocation


def _in_context(call: Call, feed: VideoFeed, share: Callable[[int], Allocation]) -> Allocation:
    """Return the largest allocation that fits the context with the text around its slices.

    The text depends on which slices have tokens, so the limit is found by bisection.

    Raises:
        ValueError: Not even one token fits.
    """
    room = limit_of_context(call, feed.span)
    allocation = share(room)
    if not _frame_text(call, feed.span, allocation):
        return allocation
    low, high = len(feed.span.tail), room  # `low` holds no frame; `high` is too large
    fitting = None
    while high - low > 1:
        limit = (low + high) // 2
        allocation = share(limit)
        if limit + _frame_text(call, feed.span, allocation) <= room:
            low, fitting = limit, allocation
        else:
            high = limit
    if fitting is None:
        raise ValueError(
            f"the {room:,} tokens that the model's context leaves for {feed.name} hold no frame "
            "with its text; ask for a shorter answer (max_new_tokens)"
        )
    return fitting


def limit_of_context(call: Call, span: VideoSpan) -> int:
    """Return the number of tokens that the model's context leaves for a video.

    The videos of a row share the remaining tokens equally.

    Raises:
        ValueError: The length of the context is unknown, or the prompt and the answer alone fill
            it.
    """
    context = call.adapter.context_length(call.model)
    if context is None:
        raise ValueError(
            "budget 'auto' fits the model's context, but the model's configuration does not give "
            "its length; give a number of tokens"
        )
    ids, mask = call.inputs["input_ids"], call.inputs.get("attention_mask")
    length = ids.shape[1] if mask is None else int(mask[span.row].sum())
    videos = [video for video in call.spans if video.row == span.row]
    others = length - sum(map(_positions, videos)) + call.cached - call.start + call.new_tokens
    room = (context - others) // len(videos)
    if room < 1:
        raise ValueError(
            f"the prompt without the video, the cached tokens and the answer take {others:,} of "
            f"the {context:,} tokens of the model's context; ask for a shorter answer "
            "(max_new_tokens)"
        )
    return room


def _positions(span: VideoSpan) -> int:
    """Return the number of positions of the caller's row that a video and its text take."""
    around = () if span.frame_text is None else span.frame_text
    return len(torch.unique(torch.cat([span.slots.flatten(), span.tail, *around])))


def _frame_text(call: Call, span: VideoSpan, allocation: Allocation) -> int:
    """Return the number of tokens of frame text that stay in the prompt."""
    if span.frame_text is None:
        return 0
    keeps = call.adapter.keeps_frame_text(allocation.is_whole) & (allocation.tokens > 0)
    return sum(len(span.frame_text[number]) for number in keeps.nonzero().flatten().tolist())


def _allocate(
    call: Call,
    budget: TokenBudget,
    feed: VideoFeed,
    selection: Selection,
    embeddings: Tensor,
    most: int | None,
    patches: VideoPatches | None,
    limit: int,
) -> Allocation:
    whole, tail = int(feed.span.slots.shape[1]), len(feed.span.tail)
    room = limit - tail
    if room < 1:
        raise ValueError(
            f"a budget of {limit:,} visual tokens leaves none for the frames of {feed.name}; give "
            f"at least {tail + 1}"
        )
    selection, shares = share_tokens(
        budget, selection, embeddings, whole, room, feed.timestamps, patches
    )
    if isinstance(call.merger, TokenPruner):  # a pruner keeps one token of a group's first frame
        shares = torch.where(shares == SHARED, 0, shares)
    if most is not None:
        shares = torch.where(shares < whole, shares.clamp(max=most), shares)
    return Allocation(selection, shares, limit, whole)


def share_tokens(
    budget: TokenBudget,
    selection: Selection,
    embeddings: Tensor,
    whole: int,
    room: int,
    timestamps: Tensor | None = None,
    patches: VideoPatches | None = None,
) -> tuple[Selection, Tensor]:
    """Share ``room`` tokens among the N frames of a video, of which a keyframe takes ``whole``.

    Args:
        embeddings: ``[N, d]``; ``[N, 0]`` if the selector uses none.
        timestamps: ``[N]`` seconds; None if they are unknown.
        patches: The patches of all frames, for a budget that uses them.

    Returns:
        The keyframes that fit, and the tokens of each frame, ``[N]`` int64, as
        `vtc.TokenBudget.allocate` returns them; ``whole`` for keyframes.

    Raises:
        ValueError: The budget broke the contract of `vtc.TokenBudget.allocate`.
    """
    selection = _fitting(selection, room // whole)
    keyframes = selection.keyframes.cpu()
    statistics = FrameStatistics(
        keyframes,
        whole,
        len(embeddings),
        relevance=None if selection.relevance is None else selection.relevance.float().cpu(),
        timestamps=None if timestamps is None else timestamps.cpu(),
        patches=patches if budget.uses_patches else None,
        **_similarities(embeddings, keyframes),
    )
    label = label_of("budget", budget)
    left = room - whole * len(keyframes)
    with part_errors(label), torch.no_grad():  # allocation has no gradient
        tokens: object = budget.allocate(statistics, left)
    return selection, _checked(tokens, statistics, left, label)


def _fitting(selection: Selection, count: int) -> Selection:
    """Return the selection with at most ``count`` keyframes; drop the least relevant ones."""
    keyframes = selection.keyframes
    if len(keyframes) <= count:
        return selection
    if selection.relevance is None:  # unranked: take evenly spread ones
        places = ((torch.arange(count) + 0.5) * (len(keyframes) / max(count, 1))).long()
    else:
        ranked = selection.relevance[keyframes].argsort(descending=True, stable=True)
        places = ranked[:count].sort().values
    return replace(selection, keyframes=keyframes[places.to(keyframes.device)])


def _similarities(embeddings: Tensor, keyframes: Tensor) -> dict[str, Tensor]:
    """Return the cosine similarities of each frame to the one before it and to its keyframe."""
    count = len(embeddings)
    if not embeddings.shape[1]:
        return {}
    numbers = torch.arange(count)
    nearest = torch.cat([keyframes.new_full((1,), -1), keyframes])[
        torch.searchsorted(keyframes, numbers, right=True)
    ]
    others = {"previous_similarity": numbers - 1, "keyframe_similarity": nearest}
    return {name: _cosines(embeddings, other) for name, other in others.items()}


def _cosines(embeddings: Tensor, others: Tensor) -> Tensor:
    """Return ``[N]`` float32, the cosine similarity to the frame in ``others``; 0 for frame -1."""
    cosines = []
    for block in torch.split(torch.arange(len(embeddings)), _BLOCK):
        other = embeddings[others[block].clamp(min=0).to(embeddings.device)]
        product = (embeddings[block.to(embeddings.device)] * other).sum(-1).cpu()
        cosines.append(product * (others[block] >= 0))
    return torch.cat(cosines)


def _checked(tokens: object, statistics: FrameStatistics, total: int, label: str) -> Tensor:
    """Return the tokens of each frame, with M for keyframes.

    Raises:
        ValueError: They break the contract of `vtc.TokenBudget.allocate`.
    """
    count, most = statistics.count, statistics.tokens_per_frame
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.shape != (count,):
        value = f"{tuple(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else tokens
        raise ValueError(f"expected {label} to return [{count}] int64, got {value!r}")
    tokens = tokens.cpu().clone()
    tokens[statistics.keyframes] = 0
    used = int(tokens.clamp(min=0).sum())
    if used > total:
        raise ValueError(f"expected {label} to give at most {total} tokens, got {used}")
    if bool(((tokens < SHARED) | (tokens > most)).any()):
        raise ValueError(f"expected {label} to give each frame from -1 to {most} tokens")
    before = torch.cat([tokens.new_zeros(1), tokens[:-1]])
    if bool(((tokens == SHARED) & (before != 1) & (before != SHARED)).any()):
        raise ValueError(
            f"expected {label} to give -1 only after a frame with one token or another -1"
        )
    tokens[statistics.keyframes] = most
    return tokens
