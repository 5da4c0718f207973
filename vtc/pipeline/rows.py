"""Shorten the rows of a batch to the tokens that are left, and pad them again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.video_span import CompressedVideo


def shorten_rows(
    inputs: dict[str, Any], videos: list[CompressedVideo], padding: int
) -> tuple[dict[str, Any], list[Tensor]]:
    """Apply one index list per row to everything that runs along the sequence.

    Args:
        inputs: The caller's, with ``input_ids`` ``[B, L]``.
        videos: The compressed videos of all rows.
        padding: The id of the padding token.

    Returns:
        The inputs with the shortened, padded rows ``[B, L']``, and for each row ``[L_row]`` int64,
        the positions that are kept.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(ids)
    rows = [_row_index(row, mask[row], videos) for row in range(len(ids))]
    length = max(len(index) for index in rows)
    left = _pads_on_the_left(mask)

    def regather(values: Tensor, fill: int) -> Tensor:
        out = values.new_full((len(rows), length), fill)
        for row, index in enumerate(rows):
            place = slice(length - len(index), None) if left else slice(len(index))
            out[row, place] = values[row, index.to(values.device)]
        return out

    fills = {"input_ids": padding, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}
    new = dict(inputs)
    for name, fill in fills.items():
        if inputs.get(name) is not None:
            new[name] = regather(inputs[name], fill)
    new["attention_mask"] = regather(mask, 0)
    if inputs.get("position_ids") is not None:
        new["position_ids"] = _positions(inputs["position_ids"], mask, new["attention_mask"])
    return new, rows


def caller_index(rows: list[Tensor], length: int, mask: Tensor) -> Tensor:
    """Return which token of a shortened row stands at each position of the caller's row.

    That is the token itself where it is kept, and else the last one kept before it, since its
    prediction is that of what follows.

    Args:
        rows: For each row ``[L_row]`` int64, ascending, the caller's positions that are kept.
        length: L of the caller's rows.
        mask: ``[B, L']``, the attention mask of the shortened rows.

    Returns:
        ``[B, L]`` int64.
    """
    at = torch.arange(length)
    left, width = _pads_on_the_left(mask), mask.shape[1]
    return torch.stack(
        [
            (torch.searchsorted(row, at, right=True) - 1).clamp(min=0)
            + (width - len(row) if left else 0)
            for row in rows
        ]
    )


def _row_index(row: int, mask: Tensor, videos: list[CompressedVideo]) -> Tensor:
    """Return the positions of a row that are kept, in order, without padding."""
    used = mask.nonzero().flatten().cpu()
    begin, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    pieces = []
    for video in videos:
        if video.span.row == row:
            pieces += [torch.arange(begin, video.span.first), video.positions]
            begin = video.span.last + 1
    pieces.append(torch.arange(begin, end))
    return torch.cat(pieces)


def _pads_on_the_left(mask: Tensor) -> bool:
    """Return whether rows are padded on the left, as ``generate`` needs; True without padding."""
    return not bool((mask[:, -1] == 0).any())


def _positions(positions: Tensor, mask: Tensor, new_mask: Tensor) -> Tensor:
    """Return the positions of the shortened rows, if the caller's just count the tokens."""
    usual = (mask.cumsum(-1) - 1).clamp(min=0)
    if positions.shape != mask.shape or not bool(((positions == usual) | (mask == 0)).all()):
        raise ValueError(
            "position_ids other than the numbers of the tokens cannot be kept when a video is "
            "compressed; leave position_ids out"
        )
    return (new_mask.cumsum(-1) - 1).clamp(min=0).to(positions.dtype)
