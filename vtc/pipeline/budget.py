"""A token budget: how many tokens each slice of a video gets, and merging to that many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.part import part_errors
from vtc.interfaces.token_budget import SHARED, FrameStatistics
from vtc.pipeline.merge import merge_slices
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.call import Call
    from vtc.pipeline.feed import VideoFeed
    from vtc.pipeline.query import Query

_BLOCK = 4096
"""Frames whose embeddings are compared at a time."""


@dataclass(frozen=True)
class Allocation:
    """The tokens of each slice of one video.

    Attributes:
        selection: The keyframes; fewer than the selector chose if they did not fit.
        tokens: ``[N]`` int64, as `vtc.TokenBudget.allocate` returns them; M for keyframes.
        limit: The most visual tokens of the video.
        whole: M, the tokens of a slice that keeps all of them.
    """

    selection: Selection
    tokens: Tensor
    limit: int
    whole: int

    @property
    def is_whole(self) -> Tensor:
        """``[N]`` bool, the slices that keep all their tokens."""
        return self.tokens == self.whole

    def summary(self) -> dict[str, int]:
        """Return the limit, and how many slices got how much."""
        tokens = self.tokens
        leads = torch.cat([(tokens == 1)[:-1] & (tokens == SHARED)[1:], tokens.new_zeros(1) > 0])
        counts = {
            "whole": self.is_whole,
            "several": (tokens > 1) & ~self.is_whole,
            "one": (tokens == 1) & ~leads & ~self.is_whole,
            "shared": leads | (tokens == SHARED),
            "groups": leads,
            "none": tokens == 0,
        }
        return {"limit": self.limit} | {name: int(each.sum()) for name, each in counts.items()}


def require_mergeable(merger: object, label: str) -> None:
    """Raise a ValueError unless a merger can make any number of tokens."""
    if not getattr(merger, "takes_budget", False):
        raise ValueError(
            f"{label} cannot work with a budget, as it makes neither several tokens of a frame nor "
            "one of several frames; choose dfm or mean_pool, or leave out the budget"
        )


def allocate(
    call: Call, feed: VideoFeed, selection: Selection, embeddings: Tensor, most: int | None
) -> Allocation | None:
    """Share the tokens of the budget among the slices of a video; None without a budget.

    Args:
        embeddings: ``[N, d]``; ``[N, 0]`` if the selector uses none.
        most: The most tokens of a frame that is merged (its patches); None if not limited.

    Raises:
        ValueError: The merger cannot work with a budget, not even one token fits, or the budget
            returned something else than `vtc.TokenBudget.allocate` says.
    """
    if call.budget is None:
        return None
    require_mergeable(call.merger, label_of("merger", call.merger))
    span = feed.span
    whole, tail = int(span.slots.shape[1]), len(span.tail)
    limit = call.budget.max_tokens
    if limit != "auto":
        return _allocate(call, feed, selection, embeddings, int(limit), whole, tail, most)
    room = limit_of_context(call, span)
    text = 0
    for _ in range(4):  # the text around the frames depends on which of them have tokens
        allocation = _allocate(call, feed, selection, embeddings, room - text, whole, tail, most)
        excess = _frame_text(call, span, allocation) - text
        if excess <= 0:
            break
        text += excess
    return allocation


def limit_of_context(call: Call, span: VideoSpan) -> int:
    """Return how many tokens of a video fit the model's context, beside all other tokens.

    The videos of a row share what is left.

    Raises:
        ValueError: The configuration does not say how long the context is, or the prompt and the
            answer alone fill it.
    """
    context = call.adapter.context_length(call.model)
    if context is None:
        raise ValueError(
            "budget 'auto' fits the context of the model, whose configuration does not say how "
            "long that is; give a number of tokens"
        )
    ids, mask = call.inputs["input_ids"], call.inputs.get("attention_mask")
    length = ids.shape[1] if mask is None else int(mask[span.row].sum())
    videos = [one for one in call.spans if one.row == span.row]
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
    """Return how many positions of the caller's row a video takes, with the text around slices."""
    around = () if span.frame_text is None else span.frame_text
    return len(torch.unique(torch.cat([span.slots.flatten(), span.tail, *around])))


def _frame_text(call: Call, span: VideoSpan, allocation: Allocation) -> int:
    """Return the tokens of the text around the slices that stays in the prompt."""
    if span.frame_text is None:
        return 0
    keeps = call.adapter.keeps_frame_text(allocation.is_whole) & (allocation.tokens > 0)
    return sum(len(span.frame_text[number]) for number in keeps.nonzero().flatten().tolist())


def _allocate(
    call: Call,
    feed: VideoFeed,
    selection: Selection,
    embeddings: Tensor,
    limit: int,
    whole: int,
    tail: int,
    most: int | None,
) -> Allocation:
    room = limit - tail
    if room < 1:
        raise ValueError(
            f"a budget of {limit:,} visual tokens leaves none for the frames of {feed.name}; give "
            f"at least {tail + 1}"
        )
    selection = _fitting(call, feed, selection, room // whole, limit, whole)
    keyframes = selection.keyframes.cpu()
    statistics = FrameStatistics(
        keyframes,
        whole,
        len(feed.span),
        relevance=None if selection.relevance is None else selection.relevance.float().cpu(),
        timestamps=None if feed.timestamps is None else feed.timestamps.cpu(),
        **_similarities(embeddings, keyframes),
    )
    label = label_of("budget", call.budget)
    left = room - whole * len(keyframes)
    with part_errors(label):
        tokens = call.budget.allocate(statistics, left)
    tokens = _checked(tokens, statistics, left, label)
    if most is not None:
        tokens = torch.where(tokens < whole, tokens.clamp(max=most), tokens)
    return Allocation(selection, tokens, limit, whole)


def _fitting(
    call: Call, feed: VideoFeed, selection: Selection, count: int, limit: int, whole: int
) -> Selection:
    """Return the selection with at most ``count`` keyframes; the least relevant ones give way."""
    keyframes = selection.keyframes
    if len(keyframes) <= count:
        return selection
    call.recorder.warn(
        f"{feed.name}: a budget of {limit:,} visual tokens holds {count} of the {len(keyframes)} "
        f"keyframes of {whole} tokens each, so the others are merged; keep fewer keyframes or give "
        "more tokens"
    )
    if selection.relevance is None:  # evenly spread, as none matters more
        places = ((torch.arange(count) + 0.5) * (len(keyframes) / max(count, 1))).long()
    else:
        ranked = selection.relevance[keyframes].argsort(descending=True, stable=True)
        places = ranked[:count].sort().values
    return replace(selection, keyframes=keyframes[places.to(keyframes.device)])


def _similarities(embeddings: Tensor, keyframes: Tensor) -> dict[str, Tensor]:
    """Return the cosines of each frame with the one before it and with its keyframe."""
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
    """Return ``[N]`` float32, the cosine of each frame with another one; 0 where that is -1."""
    cosines = []
    for block in torch.split(torch.arange(len(embeddings)), _BLOCK):
        other = embeddings[others[block].clamp(min=0).to(embeddings.device)]
        product = (embeddings[block.to(embeddings.device)] * other).sum(-1).cpu()
        cosines.append(product * (others[block] >= 0))
    return torch.cat(cosines)


def _checked(tokens: object, statistics: FrameStatistics, total: int, label: str) -> Tensor:
    """Return the tokens of each frame, with M for keyframes.

    Raises:
        ValueError: They are not what `vtc.TokenBudget.allocate` says.
    """
    count, most = statistics.count, statistics.tokens_per_frame
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.shape != (count,):
        given = f"{tuple(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else tokens
        raise ValueError(f"expected {label} to return [{count}] int64, got {given!r}")
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


class BudgetMerging:
    """Merge the frames of one video to the tokens that a budget gave them, chunk by chunk.

    A frame with T tokens is cut into T parts, which are merged one by one. Frames that share a
    token are merged as one: the mean of their tokens, weighted by the mass of each, is the softmax
    of Eq. 10 of ViLAMP over the patches of all of them, and needs no more memory than one frame.

    Args:
        keep: Takes the number of a slice and its tokens ``[T, D]``.
    """

    def __init__(
        self, call: Call, span: VideoSpan, tokens: Tensor, keep: Callable[[int, Tensor], None]
    ) -> None:
        self._call, self._span, self._tokens, self._keep = call, span, tokens, keep
        follows = torch.cat([tokens[1:] == SHARED, torch.zeros(1, dtype=torch.bool)])
        self._in_group = follows | (tokens == SHARED)
        self._first = 0
        self._token = self._mass = torch.empty(0)

    def merge(
        self,
        slices: Tensor,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Query,
        extra: Sequence[Tensor],
    ) -> int:
        """Merge the next slices ``[n]`` int64; the others are as `merge_slices` takes them.

        Returns:
            The bytes of the tokens.
        """
        rows: dict[int, Tensor] = {}
        masses: dict[int, Tensor] = {}
        tokens = self._tokens[slices]
        for count in torch.unique(tokens.clamp(min=1)).tolist():
            at = (tokens.clamp(min=1) == count).nonzero().flatten()
            here = at.to(patches.device)
            frames = (patches[here], reference[here], has_reference[here])
            layers = [layer[here] for layer in extra]
            parts = []
            for part in cells(self._span, patches.shape[1], count):
                part = part.to(patches.device)
                merged = merge_slices(
                    self._call,
                    frames[0][:, part],
                    frames[1][:, part],
                    frames[2],
                    query,
                    [layer[:, part] for layer in layers],
                )
                parts.append(merged)
            tokens_of = map(torch.cat, zip(*parts, strict=True))
            rows.update(zip(slices[at].tolist(), tokens_of, strict=True))
            if count == 1 and bool(self._in_group[slices[at]].any()):
                mass = self._call.merger.log_mass(*frames, query.for_merger(patches))
                masses.update(zip(slices[at].tolist(), mass, strict=True))
        size = 0
        for number in slices.tolist():
            size += self._add(number, rows[number], masses.get(number))
        return size

    def _add(self, number: int, token: Tensor, mass: Tensor | None) -> int:
        if mass is None or int(self._tokens[number]) != SHARED:
            if mass is not None:
                self._first, self._token, self._mass = number, token.float(), mass
            self._keep(number, token)
            return token.nbytes
        total = torch.logaddexp(self._mass, mass)
        before, now = (self._mass - total).exp(), (mass - total).exp()
        self._token, self._mass = before * self._token + now * token.float(), total
        self._keep(self._first, self._token.to(token.dtype))
        return 0


def cells(span: VideoSpan, patches: int, count: int) -> list[Tensor]:
    """Cut the patches of a frame into ``count`` parts: cells of its grid, as square as possible.

    Where the number of cells does not fit the grid, or there is no grid, the parts are runs of
    patches in their order.
    """
    places = torch.arange(patches)
    if count == 1:
        return [places]
    grid = grid_of(span, patches)
    if grid is not None:
        height, width = grid
        fitting = [
            (rows, count // rows)
            for rows in range(1, height + 1)
            if count % rows == 0 and count // rows <= width
        ]
        if fitting:
            rows, columns = min(
                fitting, key=lambda cut: abs(math.log(height * cut[1] / (width * cut[0])))
            )
            bands = torch.tensor_split(places.view(height, width), rows, dim=0)
            split = (torch.tensor_split(band, columns, dim=1) for band in bands)
            return [cell.flatten() for cell in itertools.chain.from_iterable(split)]
    return list(torch.tensor_split(places, count))


def grid_of(span: VideoSpan, patches: int) -> tuple[int, int] | None:
    """Return rows and columns of the patches of a frame; None where they are unknown."""
    if span.grid is not None and math.prod(span.grid) == patches:
        return span.grid
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None
