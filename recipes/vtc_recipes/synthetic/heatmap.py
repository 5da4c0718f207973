"""Heat maps of needle tests: length across, depth down, per cent in every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = (84, 44)
MARGIN = (92, 64, 20, 56)
"""Pixels to the left, above, to the right and below."""
INK, PAPER = (32, 33, 36), (255, 255, 255)
SCALE = ((236, 112, 99), (253, 219, 120), (88, 186, 112))
"""Colours of 0, 50 and 100 per cent; between them they blend."""


def heat_map(cells: Sequence[Mapping[str, float]], title: str) -> Image.Image:
    """Draw mean scores by length and depth.

    Args:
        cells: As `vtc_recipes.synthetic.niah.cell_means` gives them; a length and depth that is
            not among them stays empty.
        title: Stands above the map.

    Raises:
        ValueError: There are no cells.
    """
    if not cells:
        raise ValueError("no cells: a heat map needs at least one score")
    scores = {(cell["Num. Frame"], cell["Frame Depth"]): cell["Score"] for cell in cells}
    lengths = sorted({length for length, _ in scores})
    depths = sorted({depth for _, depth in scores})
    left, above, right, below = MARGIN
    across, down = CELL
    plain, large = ImageFont.load_default(14), ImageFont.load_default(17)
    width = left + across * len(lengths) + right
    width = max(width, round(large.getlength(title)) + 2 * right)
    image = Image.new("RGB", (width, above + down * len(depths) + below), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((right, 14), title, INK, large)
    draw.text((right, above - 22), "depth", INK, plain)
    for row, depth in enumerate(depths):
        middle = above + down * row + down // 2
        draw.text((left - 12, middle), f"{depth:.0f} %", INK, plain, anchor="rm")
        for column, length in enumerate(lengths):
            score = scores.get((length, depth))
            if score is None:
                continue
            x, y = left + across * column, above + down * row
            draw.rectangle((x, y, x + across - 2, y + down - 2), fill=colour_of(score))
            place = (x + across // 2 - 1, middle - 1)
            draw.text(place, f"{100 * score:.0f}", INK, large, anchor="mm")
    bottom = above + down * len(depths)
    for column, length in enumerate(lengths):
        place = (left + across * column + across // 2, bottom + 8)
        draw.text(place, _short(length), INK, plain, anchor="ma")
    middle = left + across * len(lengths) // 2
    draw.text((middle, bottom + 30), "frames", INK, plain, anchor="ma")
    return image


def colour_of(score: float) -> tuple[int, int, int]:
    """The colour of a score from 0 (red) through 0.5 (yellow) to 1 (green)."""
    low, high = SCALE[:2] if score < 0.5 else SCALE[1:]
    share = 2 * score if score < 0.5 else 2 * score - 1
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _short(length: float) -> str:
    return f"{length / 1000:g}K" if length >= 1000 and length % 100 == 0 else f"{length:g}"
