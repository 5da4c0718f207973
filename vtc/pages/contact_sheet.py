"""A picture of the keyframes, with their times and what they were ranked by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vtc.pipeline.report import Keyframe

CELL = 240
"""The width of a frame on the sheet in pixels."""
CAPTION = 22
GAP = 8
INK, PAPER = "#202124", "#ffffff"


def contact_sheet(
    frames: NDArray[np.uint8], keyframes: Sequence[Keyframe], columns: int | None = None
) -> Image.Image:
    """Draw frames in a grid, in order of time.

    Args:
        frames: ``[K, H, W, 3]`` uint8 RGB.
        keyframes: What they are: their times and relevance stand below them.
        columns: Frames in a row; None for a sheet about as wide as it is high.

    Raises:
        ValueError: There is no frame, or not one for each keyframe.
    """
    if len(frames) != len(keyframes) or not len(frames):
        raise ValueError(f"{len(frames)} frames for {len(keyframes)} keyframes: one for each")
    height = max(1, round(CELL * frames.shape[1] / frames.shape[2]))
    if columns is None:
        columns = max(1, round((len(frames) * (height + CAPTION) / CELL) ** 0.5))
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    size = (columns * (CELL + GAP) + GAP, rows * (height + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for place, (frame, keyframe) in enumerate(zip(frames, keyframes, strict=True)):
        left = GAP + place % columns * (CELL + GAP)
        top = GAP + place // columns * (height + CAPTION + GAP)
        sheet.paste(Image.fromarray(frame).resize((CELL, height)), (left, top))
        draw.text((left, top + height + 3), _caption(keyframe), fill=INK, font=font)
    return sheet


def check_target(path: str) -> None:
    """Refuse a target that could not be written, before any work is done.

    Raises:
        ValueError: Not a PNG file, or its folder is missing or cannot be written.
    """
    folder = Path(path).resolve().parent
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"the contact sheet is a PNG; {path!r} must end in .png")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"the contact sheet cannot be written: no writable folder {folder}")


def _caption(keyframe: Keyframe) -> str:
    words = [f"#{keyframe.index}"]
    if keyframe.timestamp is not None:
        words.append(f"{keyframe.timestamp:.2f} s")
    if keyframe.relevance is not None:
        words.append(f"relevance {keyframe.relevance:.3f}")
    return "   ".join(words)
