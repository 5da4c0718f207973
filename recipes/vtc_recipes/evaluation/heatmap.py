"""Heat maps of scores over two numbers, such as length and depth in needle tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL = (84, 44)
MARGIN = (92, 64, 20, 56)
"""Margins in pixels: left, top, right, bottom."""
INK, PAPER = (32, 33, 36), (255, 255, 255)
SCALE = ((236, 112, 99), (253, 219, 120), (88, 186, 112))
"""Colours of 0, 50 and 100 %; other scores are interpolated."""


@dataclass(frozen=True)
class Axis:
    """One axis of a map.

    Attributes:
        key: The key of its value in a cell.
        title: The label of the axis.
        label: A function that formats a value.
    """

    key: str
    title: str
    label: Callable[[float], str]


LENGTH = Axis("Num. Frame", "frames", lambda length: _short(length))
DEPTH = Axis("Frame Depth", "depth", lambda depth: f"{depth:.0f} %")


def heat_map(
    cells: Sequence[Mapping[str, float]], title: str, across: Axis = LENGTH, down: Axis = DEPTH
) -> Image.Image:
    """Draw mean scores over two numbers, by default length and depth.

    Args:
        cells: Cells as from `vtc_recipes.evaluation.niah.cell_means`: a ``Score`` from 0 to 1 and a
            number for each axis. Missing cells stay empty.
        title: The title above the map.
        across: The horizontal axis.
        down: The vertical axis.

    Raises:
        ValueError: There are no cells.
    """
    if not cells:
        raise ValueError("expected at least one cell, got none")
    scores = {(cell[across.key], cell[down.key]): cell["Score"] for cell in cells}
    columns = sorted({column for column, _ in scores})
    rows = sorted({row for _, row in scores})
    left, above, right, below = MARGIN
    cell_width, cell_height = CELL
    plain, large = ImageFont.load_default(14), ImageFont.load_default(17)
    left = max(left, right + round(plain.getlength(down.title)) + 12)
    width = left + cell_width * len(columns) + right
    width = max(width, round(large.getlength(title)) + 2 * right)
    image = Image.new("RGB", (width, above + cell_height * len(rows) + below), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((right, 14), title, INK, large)
    draw.text((right, above - 22), down.title, INK, plain)
    for number, row in enumerate(rows):
        middle = above + cell_height * number + cell_height // 2
        draw.text((left - 12, middle), down.label(row), INK, plain, anchor="rm")
        for place, column in enumerate(columns):
            score = scores.get((column, row))
            if score is None:
                continue
            x, y = left + cell_width * place, above + cell_height * number
            draw.rectangle((x, y, x + cell_width - 2, y + cell_height - 2), fill=colour_of(score))
            centre = (x + cell_width // 2 - 1, middle - 1)
            draw.text(centre, f"{100 * score:.0f}", INK, large, anchor="mm")
    bottom = above + cell_height * len(rows)
    for place, column in enumerate(columns):
        at = (left + cell_width * place + cell_width // 2, bottom + 8)
        draw.text(at, across.label(column), INK, plain, anchor="ma")
    middle = left + cell_width * len(columns) // 2
    draw.text((middle, bottom + 30), across.title, INK, plain, anchor="ma")
    return image


def colour_of(score: float) -> tuple[int, int, int]:
    """Return the RGB colour of a score: 0 is red, 0.5 yellow, 1 green."""
    low, cell_height = SCALE[:2] if score < 0.5 else SCALE[1:]
    share = 2 * score if score < 0.5 else 2 * score - 1
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(low, cell_height, strict=True))
    return red, green, blue


def _short(length: float) -> str:
    return f"{length / 1000:g}K" if length >= 1000 and length % 100 == 0 else f"{length:g}"
