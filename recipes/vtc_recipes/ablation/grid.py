"""A grid: a base configuration and axes, combined into cells; all errors are reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from vtc.plugins import registry
from vtc.plugins.discovery import suggestion
from vtc_recipes.ablation.cells import Cell, make_cell
from vtc_recipes.ablation.config import Document, Setting, Task
from vtc_recipes.ablation.models import saved_parts
from vtc_recipes.ablation.trainings import trained_parts
from vtc_recipes.reading import set_value
from vtc_recipes.schema import RecipeError, parse

Point = Mapping[str, Any]
"""Values by axis name, as written in the grid."""
PARTS = ("selector", "merger")
SEED = "seed"


@dataclass(frozen=True)
class Row:
    """One configuration: a line of the results.

    Attributes:
        values: Values by axis, without the seed.
        cells: One cell for each seed.
    """

    values: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """Return a label such as ``selector=dks, keyframes=8``."""
        return label_of(self.values)


@dataclass(frozen=True)
class Grid:
    """A whole grid.

    Attributes:
        name: The name in reports.
        axes: Names of the axes, in order.
        rows: The configurations, in order; the report compares the others with the first.
        note: See `Document`.
    """

    name: str
    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str

    @property
    def cells(self) -> list[Cell]:
        """Return all cells, row by row."""
        return [cell for row in self.rows for cell in row.cells]


def parse_grid(values: Mapping[str, Any], name: str) -> Grid:
    """Build a grid from plain values.

    Raises:
        RecipeError: All errors in the values.
    """
    document = parse(Document, values, name)
    errors: list[str] = []
    base = dict(document.base)
    points = _points(document, errors)
    axes = tuple(dict.fromkeys(axis for point in points for axis in point if axis != SEED))
    seeds = _seeds(base.pop("seeds", None), points, errors)
    try:
        parse(Setting, {**base, SEED: 0}, name, "base")
    except RecipeError as error:
        errors += error.problems
    if errors:
        raise RecipeError(name, errors)
    problems: dict[str, list[str]] = {}
    cells: dict[str, list[tuple[Point, Cell]]] = {}
    for point, seed in [(p, s) for p in points for s in seeds or [p[SEED]]]:
        values = {key: value for key, value in point.items() if key != SEED}
        lines: list[str] = []
        cell = _cell(base, values, seed, lines)
        for problem in lines:
            problems.setdefault(problem, []).append(label_of(point))
        if cell is not None:
            cells.setdefault(label_of(values), []).append((values, cell))
    problems |= _same(cells)
    if problems:
        raise RecipeError(name, [_located(*problem) for problem in problems.items()])
    rows = [Row(dict(row[0][0]), tuple(cell for _, cell in row)) for row in cells.values()]
    return Grid(name, axes, tuple(rows), document.note)


def label_of(point: Point) -> str:
    """Return the name of a point: ``selector=dks, keyframes=8``."""
    return ", ".join(f"{axis}={shown(value)}" for axis, value in point.items()) or "the base"


def shown(value: Any) -> str:
    """Return the name of a value of an axis: ``dfm(temperature=0.1)``."""
    if isinstance(value, Mapping) and len(value) and "name" in value:
        options = ", ".join(f"{k}={v}" for k, v in value.items() if k != "name")
        return f"{value['name']}({options})" if options else str(value["name"])
    if isinstance(value, Mapping) and "recipe" in value:
        last = value.get("last_stage")
        return f"{value['recipe']} up to {last}" if last else str(value["recipe"])
    return "as saved" if value is None else str(value)


def _points(document: Document, errors: list[str]) -> list[Point]:
    axes, combine = document.axes, document.combine
    if combine == "list":
        wrong = not isinstance(axes, list) or not all(isinstance(point, Mapping) for point in axes)
        if wrong or not axes:
            errors.append(
                f"axes: with combine: list, expected at least one mapping in a list, got {axes!r}"
            )
            return []
        return list(axes)
    if not isinstance(axes, Mapping):
        errors.append(
            f"axes: expected a mapping from names to lists of values, got {axes!r}; for a list "
            "write combine: list"
        )
        return []
    for axis, values in axes.items():
        if not isinstance(values, list):
            errors.append(f"axes.{axis}: expected a list of values, got {values!r}")
        elif not values:
            errors.append(f"axes.{axis} is empty; name at least one value")
        elif combine == "zip":
            continue
        elif twice := [value for number, value in enumerate(values) if value in values[:number]]:
            errors.append(f"axes.{axis}: {twice[0]!r} appears twice; remove one")
    if any(error.startswith("axes.") for error in errors):
        return []
    if combine == "zip" and len({len(values) for values in axes.values()}) > 1:
        lengths = ", ".join(f"{axis} {len(values)}" for axis, values in axes.items())
        errors.append(f"axes: with combine: zip, all must have the same length, got {lengths}")
        return []
    columns = axes.values()
    combined = zip(*columns, strict=True) if combine == "zip" else itertools.product(*columns)
    return [dict(zip(axes, values, strict=True)) for values in combined]


def _seeds(seeds: Any, points: Sequence[Point], errors: list[str]) -> list[int]:
    """Return the seeds of every point; an empty list if the points have their own."""
    has_seed = [SEED in point for point in points]
    if any(has_seed):
        if seeds is not None:
            errors.append("base.seeds: the axes have seeds too; remove one of the two")
        elif not all(has_seed):
            errors.append("axes: either all entries or none must have a seed")
        return []
    valid = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if seeds is None or seeds == []:
        errors.append("base.seeds is missing; write seeds: [0, 1, 2]")
    elif not valid:
        errors.append(f"base.seeds: expected a list of whole numbers >= 0, got {seeds!r}")
    elif len(set(seeds)) < len(seeds):
        errors.append(f"base.seeds: a seed appears twice in {seeds!r}; its cells would be the same")
    else:
        return list(seeds)
    return [0]


def _cell(base: Mapping[str, Any], point: Point, seed: Any, errors: list[str]) -> Cell | None:
    """Build the cell of a point and a seed; append errors and return None if that fails."""
    values = deepcopy({**base, SEED: seed})
    short = {axis: value for axis, value in point.items() if axis in _FIELDS}
    values |= short
    try:
        _fill_in(values)
        for axis, value in point.items():
            if axis not in short:
                set_value(values, _path(axis, values), value)
        setting = parse(Setting, values, "")
    except RecipeError as error:
        errors += error.problems
        return None
    except (ValueError, TypeError, ImportError) as error:
        errors.append(str(error))
        return None
    return make_cell(setting, errors)


def _fill_in(values: dict[str, Any]) -> None:
    """Fill in all options of the parts; take parts that the grid does not name from the model."""
    model = values.get("model")
    if isinstance(model, str):
        defaults = saved_parts(model)
    elif isinstance(model, Mapping):
        defaults = trained_parts(model)
        values["encoder"] = values.get("encoder") or defaults["encoder"]
    else:
        return
    for kind in PARTS:
        spec = defaults[kind] if values.get(kind) is None else values[kind]
        values[kind] = registry.spec_of(registry.build_part(kind, spec))
    if (budget := registry.build_budget(values.get("budget"))) is not None:
        values["budget"] = registry.spec_of(budget)
    if isinstance(model, str) and values.get("encoder") is None and defaults["encoder"] == "tiny":
        values["encoder"] = "tiny"


_FIELDS = tuple(Setting.model_fields)
_TASK_FIELDS = tuple(Task.model_fields)


def _path(axis: str, values: Mapping[str, Any]) -> str:
    """Return the dotted name of an axis given by its short or dotted name."""
    first, dot, _ = axis.partition(".")
    if dot and first in _FIELDS:
        return axis
    if axis in _TASK_FIELDS:
        return f"task.{axis}"
    options = {kind: [name for name in values.get(kind, ()) if name != "name"] for kind in PARTS}
    kinds = [kind for kind in PARTS if axis in options[kind]]
    if len(kinds) == 1:
        return f"{kinds[0]}.{axis}"
    if kinds:
        raise ValueError(f"axes.{axis}: both parts have it; write selector.{axis} or merger.{axis}")
    names = [*_FIELDS, *_TASK_FIELDS, *options["selector"], *options["merger"]]
    raise ValueError(
        f"axes.{axis} is unknown: not a field of the base or its task, not an option of selector "
        f"{values['selector']['name']!r} ({', '.join(options['selector']) or 'none'}) or of "
        f"merger {values['merger']['name']!r} ({', '.join(options['merger']) or 'none'})."
        f"{suggestion(axis, names)}"
    )


def _same(cells: Mapping[str, list[tuple[Point, Cell]]]) -> dict[str, list[str]]:
    """Find equal cells: a configuration with two labels, or a seed that appears twice."""
    labels: dict[str, str] = {}
    problems: dict[str, list[str]] = {}
    for label, row in cells.items():
        for _, cell in row:
            if cell.id in labels:
                problem = f"with seed {cell.setting.seed} is the same cell as {labels[cell.id]}"
                problems.setdefault(problem, []).append(label)
            labels[cell.id] = label
    return problems


def _located(problem: str, labels: Sequence[str]) -> str:
    labels = list(dict.fromkeys(labels))
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    return f"{labels[0]}{more}: {problem}"
