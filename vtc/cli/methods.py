"""Print the tables of ``vtc parts --markdown``: selectors and mergers with their costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from vtc.cli.output import printable
from vtc.interfaces.costs import Sizes, cost
from vtc.plugins.options import options_of
from vtc.plugins.registry import PartInfo, build_part

_PROPERTIES: dict[str, dict[str, Callable[[Any], str]]] = {
    "selector": {
        "query-aware": lambda part: _yes_or_no(part.uses_query),
        "needs embeddings": lambda part: _yes_or_no(part.uses_embeddings),
        "own encoder": lambda part: f"`{part.encoder}`" if part.encoder else "no",
    },
    "merger": {
        "query-aware": lambda part: _yes_or_no(part.query_source),
        "needs training": lambda part: _yes_or_no(part.needs_training),
        "tokens per frame": lambda part: (
            str(part.tokens_per_frame) if part.tokens_per_frame >= 0 else "varies"
        ),
    },
}
"""The columns of each kind between the source and the costs."""


def tables(infos: Sequence[PartInfo], sizes: Sizes) -> str:
    """Return a Markdown table of selectors and one of mergers, with their default options.

    A part has a further row for each value of a ``Literal`` option that changes one of its
    columns. Parts that cannot be made are skipped with a warning.

    Args:
        infos: The parts; other kinds are ignored.
        sizes: The sizes for the costs.
    """
    return "\n\n".join(
        _table(kind, parts, sizes)
        for kind in _PROPERTIES
        if (parts := [part for part in infos if part.kind == kind])
    )


def _table(kind: str, infos: Sequence[PartInfo], sizes: Sizes) -> str:
    head = [kind, "source", *_PROPERTIES[kind], "MACs per frame", "memory"]
    rows = [row for info in infos for row in _rows(info, sizes)]
    return "\n".join(_line(cells) for cells in [head, ["---"] * len(head), *rows])


def _rows(info: PartInfo, sizes: Sizes) -> Iterator[list[str]]:
    """Yield the row of a part with default options, and rows of option values that change it."""
    try:
        part = build_part(info.kind, info.name)
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        label = f"{info.kind} {info.name!r}"
        warnings.warn(f"{label} is skipped: {info.error or error}", stacklevel=2)
        return
    default = _cells(info.kind, part, sizes)
    yield [f"`{info.name}`", *default]
    for name, option in options_of(type(part)).items():
        values = get_args(option.annotation) if get_origin(option.annotation) is Literal else ()
        for value in values:
            other = build_part(info.kind, {"name": info.name, name: value})
            if (cells := _cells(info.kind, other, sizes)) != default:
                yield [f'`{info.name}`, `{name}="{value}"`', *cells]


def _cells(kind: str, part: Any, sizes: Sizes) -> list[str]:
    costs = [_short(cost(part, name, sizes)) for name in ("macs", "extra_memory")]
    columns = [column(part) for column in _PROPERTIES[kind].values()]
    return [part.source or "not given", *columns, *costs]


def _short(number: float | None) -> str:
    """Format a number with three digits: ``"4.44 G"``."""
    if number is None:
        return "not given"
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


def _yes_or_no(value: object) -> str:
    return "yes" if value else "no"


def _line(cells: Sequence[str]) -> str:
    """Format a row; escape bars and remove line breaks, which would break the table."""
    texts = (printable(" ".join(cell.split())).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(texts)} |"
