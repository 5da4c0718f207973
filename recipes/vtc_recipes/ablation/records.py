"""Read the results of a run's cells, by row of its grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vtc.plugins.sections import read_json
from vtc_recipes.ablation.files import (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    CellConfig,
    Environment,
    GridRow,
    Metrics,
    Prediction,
    read_grid,
    read_predictions,
)
from vtc_recipes.ablation.grid import PARTS
from vtc_recipes.evaluation.bootstrap import interval


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class RowResult:
    """The results of one configuration over all questions and finished seeds.

    Attributes:
        label: The configuration in words.
        values: The values by axis.
        seeds: Finished seeds.
        missing: Seeds that are not finished.
        questions: Number of questions over all seeds.
        accuracy, coverage: The fractions of right answers, and of questions whose evidence is among
            the keyframes; coverage is None if the evidence is unknown.
        kinds: The accuracy by kind of question.
        difference: The difference in accuracy to the row `Results.against`, paired by question;
            None for that row, and if the questions differ.
        chance: The accuracy of guessing.
        tokens_before, tokens_after: Visual tokens per video, including the text around frames.
        macs: Multiply-accumulates of the first question, without the frame encoder.
        seconds: The median time per question, without the frame encoder.
        trained: Whether each seed is a separate training, so that intervals cover seeds too.
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
    trained: bool


@dataclass(frozen=True)
class Results:
    """All rows of a grid that have results.

    Attributes:
        name, note: The name and note of the grid.
        axes: The names of the axes.
        against: The row, counted from 1, with which the others are compared.
        trained: Whether the seeds of any row are separate trainings.
        rows: The results, in the grid's order.
        waiting: Labels of the rows without results.
        setting: Values that all cells share (model, task, machine), by their names in
            ``config.json`` or ``environment.json``.
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
        """Return the results as plain JSON."""
        return asdict(self)


def read_results(runs: Path, against: int = 1) -> Results:
    """Read the results of a run.

    Args:
        against: The row with which the others are compared, counted from 1 among rows with results.

    Raises:
        FileNotFoundError: The folder was not written by ``vtc ablate``.
        ValueError: No cell is done yet, or there is no such row.
    """
    grid = read_grid(runs)
    rows = [(row, _predictions(runs, row)) for row in grid.rows]
    answered = [(row, done) for row, done in rows if done]
    waiting = [row.label for row, done in rows if not done]
    if not answered:
        raise ValueError(f"no cell of {runs} is done yet; run vtc ablate with --out {runs}")
    if not 1 <= against <= len(answered):
        raise ValueError(
            f"expected against to be a row with results, 1 to {len(answered)}, got {against}"
        )
    results: list[RowResult] = []
    for number, (row, done) in enumerate(answered, 1):
        folders = row.folders(runs)
        macs = [read_json(folders[seed] / METRICS, Metrics).macs for seed in done]
        missing = tuple(seed for seed in folders if seed not in done)
        config = read_json(folders[next(iter(done))] / CONFIG, CellConfig)
        values = {axis: _named(axis, v, config) for axis, v in row.values.items()}
        row = row.model_copy(update={"values": values})
        other = None if number == against else answered[against - 1][1]
        resample = row.trained or answered[against - 1][0].trained
        results.append(_summary(row, done, missing, other, macs, resample))
    cells = [cell for row in grid.rows for cell in row.folders(runs).values()]
    setting = _common([_setting(cell) for cell in cells if cell.is_dir()])
    return Results(
        grid.name,
        grid.axes,
        against,
        any(row.trained for row in results),
        tuple(results),
        tuple(waiting),
        setting,
        grid.note,
    )


def _predictions(runs: Path, row: GridRow) -> dict[int, list[Prediction]]:
    """Return the predictions of each finished seed."""
    folders = row.folders(runs).items()
    return {seed: read_predictions(folder) for seed, folder in folders if folder.is_dir()}


def _named(axis: str, value: Any, config: CellConfig) -> Any:
    """Return a value of an axis; None becomes the name of the part saved with the model."""
    saved = value is None and axis in PARTS
    return f"{getattr(config, axis)['name']}, as saved" if saved else value


def _setting(cell: Path) -> dict[str, Any]:
    config = read_json(cell / CONFIG, CellConfig)
    environment = read_json(cell / ENVIRONMENT, Environment)
    task = dict(config.task)
    if task["file"] is not None:  # the other fields do not matter
        task = {name: task[name] for name in ("name", "frames", "fps", "file") if name in task}
    return {
        "model": config.model_name,
        **{kind: getattr(config, kind) for kind in PARTS},
        "task": task.pop("name"),
        **task,
        "prompt": config.prompt,
        **{name: getattr(environment, name) for name in ("device", "system", "threads")},
        **environment.libraries,
    }


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that are equal in all settings."""
    first, *others = settings
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}


def _summary(
    row: GridRow,
    done: Mapping[int, Sequence[Prediction]],
    missing: tuple[int, ...],
    first: Mapping[int, Sequence[Prediction]] | None,
    macs: Sequence[float],
    resample: bool,
) -> RowResult:
    """Summarise a row.

    Args:
        resample: Whether the seeds of this row, or of the one that it is compared with, are
            separate trainings, so that the difference is resampled over seeds too.
    """
    predictions = [record for records in done.values() for record in records]

    def mean(name: str) -> float:
        return float(sum(getattr(record, name) for record in predictions) / len(predictions))

    def estimate(score: Callable[[Prediction], float], kind: str | None = None) -> Estimate:
        scores = [
            [score(record) for record in records if kind in (None, record.kind)]
            for records in done.values()
        ]
        return _estimate([seed for seed in scores if seed], row.trained)

    def right(record: Prediction) -> float:
        return float(record.right)

    covered = all(record.covered is not None for record in predictions)
    kinds = dict.fromkeys(record.kind for record in predictions)
    return RowResult(
        label=row.label,
        values=row.values,
        seeds=tuple(done),
        missing=missing,
        questions=len(predictions),
        accuracy=estimate(right),
        coverage=estimate(lambda record: float(bool(record.covered))) if covered else None,
        kinds={kind: estimate(right, kind) for kind in kinds},
        difference=None if first is None else _difference(done, first, resample),
        chance=mean("chance"),
        tokens_before=mean("tokens_before"),
        tokens_after=mean("tokens_after"),
        macs=sum(macs) / len(macs),
        seconds=median(record.seconds for record in predictions),
        trained=row.trained,
    )


def _difference(
    done: Mapping[int, Sequence[Prediction]],
    first: Mapping[int, Sequence[Prediction]],
    trained: bool,
) -> Estimate | None:
    """Compare two rows question by question, over their common seeds."""
    both = [seed for seed in done if seed in first]
    pairs = [list(zip(done[seed], first[seed], strict=False)) for seed in both]
    same = all(len(done[seed]) == len(first[seed]) for seed in both) and all(
        (one.id, one.question, one.answer) == (other.id, other.question, other.answer)
        for pair in pairs
        for one, other in pair
    )
    if not both or not same:
        return None
    return _estimate(
        [[float(one.right) - float(other.right) for one, other in pair] for pair in pairs],
        trained,
    )


def _estimate(scores: Sequence[Sequence[float]], trained: bool) -> Estimate:
    values = [score for seed in scores for score in seed]
    low, high = interval(scores, seeds=trained)
    return Estimate(sum(values) / len(values), low, high)
