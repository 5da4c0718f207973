"""The tables of ``vtc parts --markdown``: what selectors and mergers say of themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from vtc.interfaces.costs import evaluate, symbols
from vtc.plugins.options import options_of
from vtc.plugins.registry import PartInfo, build_part

_PROPERTIES: dict[str, dict[str, Callable[[Any], str]]] = {
    "selector": {
        "query-aware": lambda part: _yes_or_no(part.uses_query),
        "needs embeddings": lambda part: _yes_or_no(part.uses_embeddings),
        "own encoder": lambda part: _code(part.encoder) or "no",
    },
    "merger": {
        "query-aware": lambda part: _yes_or_no(part.query_source),
        "to be trained": lambda part: _yes_or_no(part.needs_training),
        "tokens per frame": lambda part: str(part.tokens_per_frame),
    },
}
"""The columns of each kind between the source and the costs."""


def tables(found: Sequence[PartInfo], sizes: Mapping[str, float]) -> str:
    """One Markdown table for each kind, of selectors and mergers with their default options.

    A part has another row for each value of an option with a list of values that changes one of
    its columns. Parts that cannot be made are left out, with a warning.

    Args:
        found: the parts; those of other kinds are passed over.
        sizes: where given, costs are numbers at these sizes, see `vtc.interfaces.costs.SIZES`.

    Raises:
        ValueError: a part's cost needs a size that is not given, or cannot be read.
    """
    return "\n\n".join(
        _table(kind, parts, sizes)
        for kind in _PROPERTIES
        if (parts := [part for part in found if part.kind == kind])
    )


def _table(kind: str, found: Sequence[PartInfo], sizes: Mapping[str, float]) -> str:
    head = [kind, "source", *_PROPERTIES[kind], "MACs per frame", "memory"]
    rows = [row for info in found for row in _rows(info, sizes)]
    return "\n".join(_line(cells) for cells in [head, ["---"] * len(head), *rows])


def _rows(info: PartInfo, sizes: Mapping[str, float]) -> Iterator[list[str]]:
    """The row of a part with its defaults, and of each choice that makes another row."""
    label = f"{info.kind} {info.name!r}"
    try:
        part = build_part(info.kind, info.name)
    except (ImportError, TypeError, ValueError) as error:
        warnings.warn(f"{label} is left out: {info.error or error}", stacklevel=2)
        return
    usual = _cells(info.kind, label, part, sizes)
    yield [f"`{info.name}`", *usual]
    for name, option in options_of(type(part)).items():
        values = get_args(option.annotation) if get_origin(option.annotation) is Literal else ()
        for value in values:
            other = build_part(info.kind, {"name": info.name, name: value})
            if (cells := _cells(info.kind, label, other, sizes)) != usual:
                yield [f'`{info.name}`, `{name}="{value}"`', *cells]


def _cells(kind: str, label: str, part: Any, sizes: Mapping[str, float]) -> list[str]:
    costs = [_cost(f"{label}, {name}", part, name, sizes) for name in ("macs", "extra_memory")]
    return [part.source or "not said", *(say(part) for say in _PROPERTIES[kind].values()), *costs]


def _cost(label: str, part: Any, name: str, sizes: Mapping[str, float]) -> str:
    expression = getattr(part, name)
    if not sizes or not expression:
        return _code(expression) or "not said"
    values = symbols(part, sizes)
    try:
        return _short(evaluate(expression, values))
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def _short(number: float) -> str:
    """Three digits: ``"4.44 G"``."""
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


def _yes_or_no(value: object) -> str:
    return "yes" if value else "no"


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _line(cells: Sequence[str]) -> str:
    # A bar would end the cell.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
