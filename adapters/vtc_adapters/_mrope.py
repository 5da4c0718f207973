"""M-RoPE positions (time, height, width) of compressed videos, derived from the stock model's.

The stock ``get_rope_index`` runs on rows whose videos are cut to their first slice: neither the
grid of a slice nor the step to the text after it depends on the number of slices. The other slices
are shifted copies of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.video_span import MERGED, TEXT, CompressedVideo, Layout, VideoSpan


@dataclass(frozen=True)
class Slices:
    """The positions of the slices of one video, relative to the first slice.

    Attributes:
        moves: ``[3, N]`` int64, the offset of each slice's cells from the first slice's.
        after: The extra offset of the text after the video, relative to text after its first slice.
    """

    moves: Tensor
    after: int


def mrope_positions(
    model: Any, inputs: Mapping[str, Any], layout: Layout, video_token: int, slices_of: Any
) -> Tensor:
    """Return the positions of the shortened rows.

    Args:
        slices_of: A function that returns the `Slices` of a video, given its index, the video and
            the positions ``[3, M]`` of its first slice.

    Returns:
        int64, ``[4, B, L]`` for ``generate`` (text, time, height, width), ``[3, B, L]`` for
        ``forward``.
    """
    stock = _stock_positions(model, inputs, layout, video_token)
    mask = layout.mask
    text = (mask.cumsum(-1) - 1).clamp(min=0)
    positions = text.expand(3, -1, -1).clone()
    for row, around in enumerate(stock):
        columns = _row_positions(layout, row, around, slices_of)
        end = layout.row_starts[row] + len(layout.rows[row])  # columns begin after the cache
        positions[:, row, end - columns.shape[1] : end] = columns.to(mask.device)
    return torch.cat([text[None], positions]) if layout.generating else positions


def mrope_offsets(positions: Tensor, layout: Layout) -> Tensor:
    """Return ``[B, 1]`` int64, the difference between the next position of each row and its length.

    The stock model calls it ``rope_deltas``.

    Args:
        positions: The result of `mrope_positions`.
    """
    before = 0 if layout.generating else layout.cached  # forward's mask covers only new tokens
    offsets = []
    for row, mask in enumerate(layout.mask):
        last = mask.nonzero().flatten()[-1]
        offsets.append(positions[-3:, row, last].max() + 1 - mask.sum() - before)
    return torch.stack(offsets)[:, None]


def mrope_after(inputs: Mapping[str, Any], cached: int, offsets: Tensor) -> Tensor:
    """Return ``[3, B, L]`` int64, the positions of ids ``[B, L]`` that continue from a cache."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        text = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    else:
        text = torch.arange(cached, cached + ids.shape[1], device=ids.device).expand(ids.shape)
    row_offsets = offsets.to(ids.device).repeat_interleave(len(ids) // len(offsets), dim=0)
    return (text + row_offsets).expand(3, -1, -1)


def _first_slice(span: VideoSpan) -> tuple[Tensor, int]:
    """Return the positions of the first slice with its text, and how many precede the slice."""
    slots = span.slots[0].cpu()
    if span.frame_text is None:
        return slots, 0
    text = span.frame_text[0].cpu()
    before = text[text < slots[0]]
    return torch.cat([before, slots, text[len(before) :]]), len(before)


def _stock_positions(
    model: Any, inputs: Mapping[str, Any], layout: Layout, video_token: int
) -> list[Tensor]:
    """Return stock positions ``[3, L_row]`` of each row's new tokens, videos cut to one slice."""
    ids = inputs["input_ids"]
    merge = model.config.vision_config.spatial_merge_size
    rows, grids = [], []
    for row, kept in enumerate(layout.rows):
        pieces, begin = [], max(layout.start, int(kept[0]))
        for video in layout.videos:
            if video.span.row == row:
                height, width = video.span.grid or (1, 1)
                grids.append([1, height * merge, width * merge])
                pieces += [torch.arange(begin, video.span.first), _first_slice(video.span)[0]]
                begin = video.span.last + 1
        pieces.append(torch.arange(begin, int(kept[-1]) + 1))
        rows.append(ids[row, torch.cat(pieces).to(ids.device)])
    stock, videos_done, images_done = [], 0, 0
    images = inputs.get("image_grid_thw")
    for row, short in enumerate(rows):
        kinds = (short == model.config.image_token_id).int()
        kinds = kinds + 2 * (short == video_token).int()
        starts = kinds.diff(prepend=kinds.new_zeros(1)) != 0
        count = int((starts & (kinds == 2)).sum())
        pictures = int((starts & (kinds == 1)).sum())
        video_grids = torch.tensor(grids[videos_done : videos_done + count], dtype=torch.int64)
        positions, _ = model.model.get_rope_index(
            short[None],
            mm_token_type_ids=kinds[None],
            image_grid_thw=None if images is None else images[images_done : images_done + pictures],
            video_grid_thw=video_grids.view(-1, 3),
        )
        stock.append(positions[:, 0] + _cached_position(model, layout, row))
        videos_done, images_done = videos_done + count, images_done + pictures
    return stock


def _cached_position(model: Any, layout: Layout, row: int) -> int:
    """Return the position that follows the cached tokens."""
    if layout.cached == 0:
        return 0
    offsets = layout.cached_offsets
    if offsets is None:  # the stock model has filled the cache
        offsets = model.model.rope_deltas
    return layout.cached + (0 if offsets is None else int(offsets[row % len(offsets)]))


def _row_positions(layout: Layout, row: int, stock: Tensor, slices_of: Any) -> Tensor:
    """Return positions ``[3, L]`` of one row's remaining tokens, given the stock positions."""
    columns, at, moved = [], 0, 0
    begin = max(layout.start, int(layout.rows[row][0]))
    for number, video in enumerate(layout.videos):
        if video.span.row != row:
            continue
        text = video.span.first - begin
        first, before = _first_slice(video.span)
        cells = stock[:, at + text + before :][:, : video.span.slots.shape[1]]
        slices = slices_of(number, video, cells)
        columns.append(stock[:, at : at + text] + moved)
        columns.append(_video_positions(video, cells, slices.moves) + moved)
        moved += slices.after
        at += text + len(first)
        begin = video.span.last + 1
    columns.append(stock[:, at:] + moved)
    return torch.cat(columns, dim=1)


def _video_positions(video: CompressedVideo, cells: Tensor, moves: Tensor) -> Tensor:
    """Return positions ``[3, L]`` of a video: keyframe cells, centres of merged slices, text."""
    span = video.span
    height, width = span.grid or (1, 1)
    centre = cells[:, height // 2 * width + width // 2, None]
    number, slices = video.cells.to(cells.device), video.slices.to(cells.device)
    columns = torch.where(number == MERGED, centre, cells[:, number.clamp(min=0)])
    if span.frame_text is not None:
        # Text counts up to the slice's first cell and continues after its last position.
        slots = span.slots.to(cells.device)[slices]
        place = video.positions.to(cells.device)[: len(slices)]
        before = cells[:, :1] - (slots[:, 0] - place)
        after = cells.max() + place - slots[:, -1]
        text = torch.where(place < slots[:, 0], before, after)
        columns = torch.where(number == TEXT, text, columns)
    return columns + moves.to(cells.device)[:, slices]


def slices_with_frame_text(span: VideoSpan, cells: Tensor) -> Slices:
    """Return the slices of a video with text around each; they follow one another like images."""
    slots = span.slots.cpu()
    around = [text.cpu() for text in span.frame_text or ()]
    text = torch.tensor([len(places) for places in around])
    before = torch.tensor([int((places < slots[n, 0]).sum()) for n, places in enumerate(around)])
    extent = int(cells.max() + 1 - cells[0, 0])  # the stock model's step past a slice
    steps = text + extent
    starts = steps.cumsum(0) - steps + before - before[0]
    return Slices(starts.expand(3, -1), int(steps[1:].sum()))
