"""The jobs of a grid, and the checks of folder and disk before any work starts."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from vtc.plugins.sections import read_json
from vtc_recipes.ablation.cells import Cell
from vtc_recipes.ablation.embeddings import Shelf
from vtc_recipes.ablation.files import GRID, METRICS, Metrics
from vtc_recipes.ablation.grid import Grid, Row
from vtc_recipes.ablation.questions import count
from vtc_recipes.ablation.running import run_cell
from vtc_recipes.ablation.trainings import TrainingJob, read_result
from vtc_recipes.ablation.work import Job
from vtc_recipes.schema import RecipeError

FOLDERS = ("cells", "trainings", "embeddings", "locks", "working")
SPARE_BYTES = 100 * 2**20
_RECORD_BYTES, _EMBEDDING_BYTES, _TRAINING_BYTES = 2_000, 4 * 768, 200 * 2**20
"""Approximate bytes per question, per frame, and per training of a tiny model."""


@dataclass(frozen=True)
class Cost:
    """The work of a grid.

    Attributes:
        cells, cells_done, trainings, trainings_done: Numbers of jobs.
        questions: Number of remaining questions.
        frames: Number of frames in the videos of these questions.
        seconds: Estimated time of the remaining cells with one worker, from the mean of the
            finished ones; None before the first is finished.
        training_seconds: The same for the remaining trainings.
    """

    cells: int
    cells_done: int
    trainings: int
    trainings_done: int
    questions: int
    frames: int
    seconds: float | None
    training_seconds: float | None


def trainings_of(grid: Grid) -> list[TrainingJob]:
    """Return the distinct trainings that the cells need, each after the stages it shares."""
    trainings: dict[str, TrainingJob] = {}
    for training in filter(None, (cell.training for cell in grid.cells)):
        for job in filter(None, (training.shared, training)):
            trainings[job.id] = job
    return list(trainings.values())


def missing_data(grid: Grid, runs: Path) -> list[str]:
    """Return a line for each missing data file of the remaining trainings."""
    remaining = [job for job in trainings_of(grid) if not (runs / "trainings" / job.id).is_dir()]
    return list(dict.fromkeys(line for job in remaining for line in job.missing()))


def estimate(grid: Grid, runs: Path) -> Cost:
    """Return the remaining work of a grid in a folder."""
    trainings = trainings_of(grid)
    remaining = [cell for cell in grid.cells if not (runs / "cells" / cell.id).is_dir()]
    done = [runs / "cells" / cell.id / METRICS for cell in grid.cells if cell not in remaining]
    metrics = [read_json(file, Metrics) for file in done]
    answered = sum(cell.questions for cell in metrics)
    seconds = sum(cell.questions * (cell.seconds + cell.encoder_seconds) for cell in metrics)
    questions = sum(count(cell.setting.task) for cell in remaining)
    return Cost(
        cells=len(grid.cells),
        cells_done=len(done),
        trainings=len(trainings),
        trainings_done=sum((runs / "trainings" / job.id).is_dir() for job in trainings),
        questions=questions,
        frames=sum(count(cell.setting.task) * cell.setting.task.frames for cell in remaining),
        seconds=seconds / answered * questions if answered else None,
        training_seconds=_training_seconds(trainings, runs / "trainings"),
    )


def _training_seconds(trainings: Sequence[TrainingJob], folder: Path) -> float | None:
    """Estimate the seconds of the remaining trainings from finished ones of the same kind."""
    spent: dict[Any, list[float]] = defaultdict(list)
    remaining = []
    for job in trainings:
        if (folder / job.id).is_dir():
            spent[job.kind].append(read_result(folder / job.id).seconds)
        else:
            remaining.append(job.kind)
    if not set(remaining) <= spent.keys():
        return None
    return sum(mean(spent[kind]) for kind in remaining)


def prepare(grid: Grid, runs: Path) -> None:
    """Create the folders of a run and write ``grid.json``.

    Raises:
        RecipeError: Data of a training are missing, the folder cannot be written, or the disk is
            too full.
    """
    problems = missing_data(grid, runs)
    if problems:
        raise RecipeError(grid.name, problems)
    try:
        for name in FOLDERS:
            (runs / name).mkdir(parents=True, exist_ok=True)
        unfinished = runs / f"{uuid.uuid4().hex}.partial"
        unfinished.write_text(json.dumps(grid_json(grid), indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, runs / GRID)
        needed, free = bytes_needed(grid, runs), shutil.disk_usage(runs).free
        if free < needed:
            problems.append(
                f"the disk of {runs} has {free / 2**20:.0f} MiB free, and about "
                f"{needed / 2**20:.0f} MiB are needed; make room, or give another --out"
            )
    except OSError as error:
        problems.append(f"{runs} cannot be written: {error.strerror or error}; give another --out")
    if problems:
        raise RecipeError(grid.name, problems)


def bytes_needed(grid: Grid, runs: Path) -> int:
    """Estimate the bytes that a grid will still write."""
    cost = estimate(grid, runs)
    videos = {
        (cell.setting.task, cell.setting.seed): cell.setting.task for cell in grid.cells
    }.values()
    embedding_bytes = sum(count(task) * task.frames for task in videos) * _EMBEDDING_BYTES
    training_bytes = (cost.trainings - cost.trainings_done) * _TRAINING_BYTES
    return SPARE_BYTES + embedding_bytes + training_bytes + cost.questions * _RECORD_BYTES


def grid_json(grid: Grid) -> dict[str, Any]:
    """Return the contents of ``grid.json``, which the report reads."""
    return {
        "name": grid.name,
        "note": grid.note,
        "axes": list(grid.axes),
        "rows": [
            {
                "label": row.label,
                "values": row.values,
                "cells": {str(cell.setting.seed): cell.id for cell in row.cells},
                "trained": _is_trained(row),
            }
            for row in grid.rows
        ],
    }


def _is_trained(row: Row) -> bool:
    """Return whether each seed of a row is a separate training."""
    models = {cell.training.id for cell in row.cells if cell.training is not None}
    return len(models) == len(row.cells)


def jobs_of(
    grid: Grid, runs: Path, device: str, show: Callable[[str, int, int], None]
) -> list[Job]:
    """Return the trainings, then the cells, row by row.

    Args:
        show: Called with the name of the work, the number of finished items, and the total.
    """
    shelf = Shelf(runs / "embeddings")
    trained = runs / "trainings"
    trainings = [
        Job(
            name=f"training-{training.id}",
            title=f"training {training.id} of {training.recipe}",
            target=trained / training.id,
            needs=() if training.shared is None else (trained / training.shared.id,),
            run=partial(training.run, trainings=trained),
        )
        for training in trainings_of(grid)
    ]

    def job(row: Row, cell: Cell) -> Job:
        def run(folder: Path) -> None:
            def progress(done: int, total: int) -> None:
                show("questions", done, total)

            source = cell.source(trained)
            run_cell(cell, source, folder, shelf, device, progress)

        needs = (trained / cell.training.id,) if cell.training else ()
        title = f"cell {cell.id} ({row.label}, seed {cell.setting.seed})"
        return Job(cell.id, title, runs / "cells" / cell.id, needs, run)

    return [*trainings, *(job(row, cell) for row in grid.rows for cell in row.cells)]
