"""Shorten the rows of a batch to their kept tokens, and pad them again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.video_span import CompressedVideo


def shorten_rows(
    inputs: dict[str, Any],
    videos: list[CompressedVideo],
    padding: int,
    media: list[int],
    cached: int = 0,
) -> tuple[dict[str, Any], list[Tensor], list[int]]:
    """Apply one index list per row to everything that runs along the sequence.

    Args:
        inputs: The caller's inputs, with ``input_ids`` ``[B, L]``.
        videos: The compressed videos of all rows.
        padding: The id of the padding token.
        media: The ids of placeholders; the stock model gives them features even if they are
            masked, so they are not padding.
        cached: The number of columns that a cache already holds; they are unchanged.

    Returns:
        The inputs with the shortened, padded rows ``[B, L']``; for each row ``[L_row]`` int64, the
        positions that are kept; and for each row the column of its first token.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(ids)
    used = mask.bool() | torch.isin(ids, ids.new_tensor(media)).to(mask.device)
    rows = [_row_index(row, used[row], videos) for row in range(len(ids))]
    fresh = [index[index >= cached] for index in rows]
    length = cached + max(len(index) for index in fresh)
    on_the_right = not cached and bool((~used[:, -1]).any())  # else on the left, for generate
    starts = [0 if on_the_right else length - len(index) for index in rows]

    def regather(values: Tensor, fill: int) -> Tensor:
        out = values.new_full((len(rows), length), fill)
        out[:, :cached] = values[:, :cached]
        for row, index in enumerate(fresh):
            start = 0 if on_the_right else length - len(index)
            out[row, start : start + len(index)] = values[row, index.to(values.device)]
        return out

    fills = {"input_ids": padding, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}
    new = dict(inputs)
    for name, fill in fills.items():
        if inputs.get(name) is not None:
            new[name] = regather(inputs[name], fill)
    new["attention_mask"] = regather(mask, 0)
    if inputs.get("position_ids") is not None:
        new["position_ids"] = _positions(inputs["position_ids"], mask, new["attention_mask"])
    return new, rows, starts


def caller_index(rows: list[Tensor], length: int, starts: list[int]) -> Tensor:
    """Return, for each position of the caller's row, a token of the shortened row.

    It is the token itself if it is kept, else the last kept token before it, whose logits predict
    the next token.

    Args:
        rows: For each row ``[L_row]`` int64, ascending, the caller's positions that are kept.
        length: L of the caller's rows.
        starts: For each row the column of its first token after shortening.

    Returns:
        ``[B, L]`` int64.
    """
    at = torch.arange(length)
    return torch.stack(
        [
            (torch.searchsorted(row, at, right=True) - 1).clamp(min=0) + start
            for row, start in zip(rows, starts, strict=True)
        ]
    )


def _row_index(row: int, used: Tensor, videos: list[CompressedVideo]) -> Tensor:
    """Return the kept positions of a row, in order, without padding."""
    places = used.nonzero().flatten().cpu()
    begin, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
    pieces = []
    for video in videos:
        if video.span.row == row:
            pieces += [torch.arange(begin, video.span.first), video.positions]
            begin = video.span.last + 1
    pieces.append(torch.arange(begin, end))
    return torch.cat(pieces)


def _positions(positions: Tensor, mask: Tensor, new_mask: Tensor) -> Tensor:
    """Return the positions of the shortened rows; raise unless the caller's count the tokens."""
    usual = (mask.cumsum(-1) - 1).clamp(min=0)
    if positions.shape != mask.shape or not bool(((positions == usual) | (mask == 0)).all()):
        raise ValueError(
            "expected position_ids to count the tokens, since others cannot be kept when a video "
            "is compressed; leave position_ids out"
        )
    return (new_mask.cumsum(-1) - 1).clamp(min=0).to(positions.dtype)
