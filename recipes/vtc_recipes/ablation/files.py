"""The files of a run, as read by the report; docs/ablation.md describes the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtc.plugins.sections import read_json
from vtc_recipes.reading import read_rows
from vtc_recipes.schema import Items, RecipeError, Row

GRID = "grid.json"
CONFIG, ENVIRONMENT, METRICS = "config.json", "environment.json", "metrics.json"
PREDICTIONS = "predictions.jsonl"


class GridRow(Row):
    """One configuration in ``grid.json``; ``cells`` are folder names by seed."""

    label: str
    values: dict[str, Any]
    cells: dict[str, str]
    trained: bool

    def folders(self, runs: Path) -> dict[int, Path]:
        """Return the folder of each seed."""
        return {int(seed): runs / "cells" / name for seed, name in self.cells.items()}


class GridFile(Row):
    """``grid.json``."""

    name: str
    axes: Items[str]
    rows: Items[GridRow]
    note: str = ""


class CellConfig(Row):
    """``config.json``."""

    model_name: Any
    selector: Any
    merger: Any
    prompt: str
    task: dict[str, Any]
    budget: Any = None


class Environment(Row):
    """``environment.json``."""

    device: str
    system: str
    threads: int
    libraries: dict[str, str]


class Metrics(Row):
    """``metrics.json``."""

    questions: int
    macs: float
    seconds: float
    encoder_seconds: float


class Prediction(Row):
    """A line of ``predictions.jsonl``."""

    id: str
    kind: str
    question: str
    answer: str
    right: bool
    covered: bool | None
    chance: float
    tokens_before: float
    tokens_after: float
    seconds: float


def read_grid(runs: Path) -> GridFile:
    """Read ``grid.json``.

    Raises:
        FileNotFoundError: The folder was not written by ``vtc ablate``.
        ValueError: The file is damaged.
    """
    file = runs / GRID
    if not file.is_file():
        raise FileNotFoundError(f"{runs} holds no {GRID}: give a folder that vtc ablate wrote")
    return read_json(file, GridFile)


def read_predictions(cell: Path) -> list[Prediction]:
    """Read the answers of a cell.

    Raises:
        RecipeError: All errors in the file.
    """
    rows, errors = read_rows(cell / PREDICTIONS, Prediction)
    if errors:
        raise RecipeError(str(cell / PREDICTIONS), errors)
    if not rows:
        raise ValueError(f"{cell / PREDICTIONS} is empty; delete {cell} to run the cell again")
    return [row for _, row in rows]
