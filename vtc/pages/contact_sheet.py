"""A picture of the keyframes, with their times and relevance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from vtc.pages.text import clock, clock_decimals, visible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vtc.pipeline.report import Keyframe

CELL = 240
"""The width of a frame on the sheet in pixels."""
CAPTION = 22
TITLE, LINE = 20, 28
"""Sizes of the text above the frames."""
GAP = 8
BORDER = 4
INK, PAPER, MARK = "#202124", "#ffffff", "#b3261e"


def contact_sheet(
    frames: NDArray[np.uint8],
    keyframes: Sequence[Keyframe],
    columns: int | None = None,
    *,
    title: Sequence[str] = (),
    marked: Collection[int] = (),
    mark: str = "needle",
) -> Image.Image:
    """Draw frames in a grid, in order of time.

    Args:
        frames: ``[K, H, W, 3]`` uint8 RGB.
        keyframes: The keyframes; their times and relevance are drawn below the frames.
        columns: The number of frames in a row; None for a sheet about as wide as high.
        title: Lines above the frames, such as the query and the name of the file.
        marked: Numbers of frames that get a border and the word ``mark``.

    Raises:
        ValueError: There are no frames, or their number differs from that of the keyframes.
    """
    if len(frames) != len(keyframes) or not len(frames):
        raise ValueError(
            f"expected one frame for each keyframe, got {len(frames)} frames for {len(keyframes)}"
        )
    height = max(1, round(CELL * frames.shape[1] / frames.shape[2]))
    if columns is None:
        columns = max(1, round((len(frames) * (height + CAPTION) / CELL) ** 0.5))
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    font = ImageFont.load_default(14)
    width = columns * (CELL + GAP) + GAP
    large = ImageFont.load_default(TITLE)
    lines = [_shorten(line, large, width - 2 * GAP) for line in title if line]
    above = len(lines) * LINE + (GAP if lines else 0)
    sheet = Image.new("RGB", (width, above + rows * (height + CAPTION + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        draw.text((GAP, GAP + row * LINE), line, fill=INK, font=large)
    decimals = clock_decimals([k.timestamp for k in keyframes if k.timestamp is not None])
    for place, (frame, keyframe) in enumerate(zip(frames, keyframes, strict=True)):
        left = GAP + place % columns * (CELL + GAP)
        top = above + GAP + place // columns * (height + CAPTION + GAP)
        sheet.paste(Image.fromarray(frame).resize((CELL, height)), (left, top))
        caption = _caption(keyframe, decimals)
        if keyframe.index in marked:
            box = (left, top, left + CELL - 1, top + height - 1)
            draw.rectangle(box, outline=MARK, width=BORDER)
            caption = f"{mark.upper()}  {caption}"
        draw.text((left, top + height + 3), caption, fill=INK, font=font)
    return sheet


def _caption(keyframe: Keyframe, decimals: int) -> str:
    words = [] if keyframe.timestamp is None else [clock(keyframe.timestamp, decimals)]
    words.append(f"#{keyframe.index}")
    if keyframe.relevance is not None:
        words.append(f"relevance {keyframe.relevance:.3f}")
    return "   ".join(words)


def _shorten(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Truncate a line to the width of the sheet."""
    line = " ".join(visible(line).split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
