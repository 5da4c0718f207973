"""What the cells of a run left, row by row of its grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vtc_recipes.ablation.grid import PARTS
from vtc_recipes.evaluation.bootstrap import interval

CONFIG, ENVIRONMENT, METRICS = "config.json", "environment.json", "metrics.json"
PREDICTIONS = "predictions.jsonl"
"""Files of a cell."""
Record = Mapping[str, Any]
"""A line of `PREDICTIONS`."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class RowResult:
    """One configuration in numbers, over all questions and seeds that are done.

    Attributes:
        label: Its values in words.
        values: By axis.
        seeds: Those that are done.
        missing: Those that are not.
        questions: How many were asked, over all seeds.
        accuracy, coverage: Shares: right answers, and keyframes that hold all evidence; no coverage
            where nobody says what the evidence is.
        kinds: The accuracy in each kind of question.
        difference: In accuracy, from the row `Results.against`, question by question; None there,
            and where the questions are not the same.
        chance: The accuracy of a guess.
        tokens_before, tokens_after: Visual tokens of a video, and the text around them.
        macs: Multiply-accumulates of a question without the frame encoder; the first one's.
        seconds: Of a question, likewise; the median.
    """

    label: str
    values: dict[str, Any]
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    questions: int
    accuracy: Estimate
    coverage: Estimate | None
    kinds: dict[str, Estimate]
    difference: Estimate | None
    chance: float
    tokens_before: float
    tokens_after: float
    macs: float
    seconds: float


@dataclass(frozen=True)
class Results:
    """All rows of a grid that have results.

    Attributes:
        name, note: The grid's.
        axes: Their names.
        against: The row, from 1 on, that differences are taken from.
        trained: Whether each seed is a training of its own.
        rows: In the grid's order.
        waiting: Labels of the rows without any result yet.
        setting: What all cells have in common: the model, the task and where they ran, each by the
            name that it has in ``config.json`` or ``environment.json``.
    """

    name: str
    axes: tuple[str, ...]
    against: int
    trained: bool
    rows: tuple[RowResult, ...]
    waiting: tuple[str, ...]
    setting: dict[str, Any]
    note: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def read_results(runs: Path, against: int = 1) -> Results:
    """Read what is done in a folder.

    Args:
        against: The row that differences are taken from, of those that have results, from 1 on.

    Raises:
        FileNotFoundError: Nothing was started there.
        ValueError: No cell is done yet, or there is no such row.
    """
    file = runs / "grid.json"
    if not file.is_file():
        raise FileNotFoundError(f"{runs} holds no grid.json: give a folder that vtc ablate wrote")
    grid = _json(file)
    trained = any(row["trained"] for row in grid["rows"])
    rows = [(row, _done(runs, row)) for row in grid["rows"]]
    answered = [(row, done) for row, done in rows if done]
    waiting = [row["label"] for row, done in rows if not done]
    if not answered:
        raise ValueError(f"no cell of {runs} is done yet; run vtc ablate with --out {runs}")
    if not 1 <= against <= len(answered):
        raise ValueError(
            f"against={against}: allowed is a row that has results, 1 to {len(answered)}"
        )
    found: list[RowResult] = []
    for number, (row, done) in enumerate(answered, 1):
        folders = _cells(runs, row)
        macs = [_json(folders[seed] / METRICS)["macs"] for seed in done]
        missing = tuple(seed for seed in folders if seed not in done)
        config = _json(folders[next(iter(done))] / CONFIG)
        row["values"] = {axis: _said(axis, v, config) for axis, v in row["values"].items()}
        other = None if number == against else answered[against - 1][1]
        found.append(_summary(row, done, missing, other, macs, trained))
    cells = [cell for row in grid["rows"] for cell in _cells(runs, row).values()]
    setting = _common([_setting(cell) for cell in cells if cell.is_dir()])
    return Results(
        grid["name"],
        tuple(grid["axes"]),
        against,
        trained,
        tuple(found),
        tuple(waiting),
        setting,
        grid.get("note", ""),
    )


def _cells(runs: Path, row: Mapping[str, Any]) -> dict[int, Path]:
    """The folder of each seed."""
    return {int(seed): runs / "cells" / name for seed, name in row["cells"].items()}


def _done(runs: Path, row: Mapping[str, Any]) -> dict[int, list[Record]]:
    """What each seed that is done has answered."""
    folders = _cells(runs, row)
    return {seed: _records(folder) for seed, folder in folders.items() if folder.is_dir()}


def _said(axis: str, value: Any, config: Mapping[str, Any]) -> Any:
    """A value of an axis; by its name where it is what the model was saved with."""
    saved = value is None and axis in PARTS
    return f"{config[axis]['name']}, as saved" if saved else value


def _setting(cell: Path) -> dict[str, Any]:
    config, environment = _json(cell / CONFIG), _json(cell / ENVIRONMENT)
    task = dict(config["task"])
    if task["file"] is not None:  # the other fields say nothing of it
        task = {name: task[name] for name in ("name", "frames", "file")}
    return {
        "model": config["model_name"],
        **{kind: config[kind] for kind in PARTS},
        "task": task.pop("name"),
        **task,
        "prompt": config["prompt"],
        **{name: environment[name] for name in ("device", "system", "threads")},
        **environment["libraries"],
    }


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is the same in all."""
    first, *others = settings
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}


def _summary(
    row: Mapping[str, Any],
    done: Mapping[int, Sequence[Record]],
    missing: tuple[int, ...],
    first: Mapping[int, Sequence[Record]] | None,
    macs: Sequence[float],
    trained: bool,
) -> RowResult:
    everything = [record for records in done.values() for record in records]

    def mean(name: str) -> float:
        return float(sum(record[name] for record in everything) / len(everything))

    def estimate(score: Callable[[Record], float], kind: str | None = None) -> Estimate:
        asked = [
            [score(one) for one in records if kind in (None, one["kind"])]
            for records in done.values()
        ]
        return _estimate([scores for scores in asked if scores], trained)

    def right(record: Record) -> float:
        return float(record["right"])

    known = all(record["covered"] is not None for record in everything)
    asked = dict.fromkeys(record["kind"] for record in everything)
    return RowResult(
        label=row["label"],
        values=row["values"],
        seeds=tuple(done),
        missing=missing,
        questions=len(everything),
        accuracy=estimate(right),
        coverage=estimate(lambda record: float(record["covered"])) if known else None,
        kinds={kind: estimate(right, kind) for kind in asked},
        difference=None if first is None else _difference(done, first, trained),
        chance=mean("chance"),
        tokens_before=mean("tokens_before"),
        tokens_after=mean("tokens_after"),
        macs=sum(macs) / len(macs),
        seconds=median(record["seconds"] for record in everything),
    )


def _difference(
    done: Mapping[int, Sequence[Record]], first: Mapping[int, Sequence[Record]], trained: bool
) -> Estimate | None:
    """Question by question, over the seeds that both have."""
    both = [seed for seed in done if seed in first]
    pairs = [list(zip(done[seed], first[seed], strict=False)) for seed in both]
    same = all(len(done[seed]) == len(first[seed]) for seed in both) and all(
        (one["id"], one["question"], one["answer"])
        == (other["id"], other["question"], other["answer"])
        for pair in pairs
        for one, other in pair
    )
    if not both or not same:
        return None
    return _estimate(
        [[float(one["right"]) - float(other["right"]) for one, other in pair] for pair in pairs],
        trained,
    )


def _estimate(scores: Sequence[Sequence[float]], trained: bool) -> Estimate:
    everything = [score for one in scores for score in one]
    low, high = interval(scores, seeds=trained)
    return Estimate(sum(everything) / len(everything), low, high)


def _records(folder: Path) -> list[Record]:
    lines = (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
