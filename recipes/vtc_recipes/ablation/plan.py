"""The jobs of a grid, and the checks of the folder and the disk that come before any work."""

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

from vtc_recipes.ablation.cells import Cell
from vtc_recipes.ablation.embeddings import Shelf
from vtc_recipes.ablation.grid import Grid, Row
from vtc_recipes.ablation.leases import Lease
from vtc_recipes.ablation.questions import count
from vtc_recipes.ablation.records import METRICS
from vtc_recipes.ablation.running import run_cell
from vtc_recipes.ablation.trainings import RESULT, TrainingJob
from vtc_recipes.ablation.work import Job
from vtc_recipes.schema import RecipeError

FOLDERS = ("cells", "trainings", "embeddings", "leases", "working")
GRID = "grid.json"
SPARE_BYTES = 100 * 2**20
_RECORD_BYTES, _EMBEDDING_BYTES, _TRAINING_BYTES = 2_000, 4 * 768, 200 * 2**20
"""About, of a question, of a frame and (tiny models; others need more) of a training."""


@dataclass(frozen=True)
class Cost:
    """What a grid takes.

    Attributes:
        cells, cells_done, trainings, trainings_done: How many.
        questions: Those that are left to be asked.
        frames: Those of the videos of these questions.
        seconds: Of the cells that are left, about, for one worker, by the mean of those that are
            done; None before the first is.
        training_seconds: Of the trainings that are left, likewise.
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
    """The trainings that the cells need, each once, behind what they share."""
    trainings: dict[str, TrainingJob] = {}
    for training in filter(None, (cell.training for cell in grid.cells)):
        for job in filter(None, (training.shared, training)):
            trainings[job.id] = job
    return list(trainings.values())


def missing_data(grid: Grid, runs: Path) -> list[str]:
    """What is not here of the data of the trainings that are left."""
    left = [job for job in trainings_of(grid) if not (runs / "trainings" / job.id).is_dir()]
    return list(dict.fromkeys(line for job in left for line in job.missing()))


def estimate(grid: Grid, runs: Path) -> Cost:
    """What is left to be done in a folder."""
    trainings = trainings_of(grid)
    left = [cell for cell in grid.cells if not (runs / "cells" / cell.id).is_dir()]
    done = [runs / "cells" / cell.id / METRICS for cell in grid.cells if cell not in left]
    metrics = [json.loads(file.read_text(encoding="utf-8")) for file in done]
    asked = sum(cell["questions"] for cell in metrics)
    seconds = sum(
        cell["questions"] * (cell["seconds"] + cell["encoder_seconds"]) for cell in metrics
    )
    questions = sum(count(cell.setting.task) for cell in left)
    return Cost(
        cells=len(grid.cells),
        cells_done=len(done),
        trainings=len(trainings),
        trainings_done=sum((runs / "trainings" / one.id).is_dir() for one in trainings),
        questions=questions,
        frames=sum(count(cell.setting.task) * cell.setting.task.frames for cell in left),
        seconds=seconds / asked * questions if asked else None,
        training_seconds=_training_seconds(trainings, runs / "trainings"),
    )


def _training_seconds(trainings: Sequence[TrainingJob], folder: Path) -> float | None:
    """About, for those that are left, by those of their kind that are done."""
    spent: dict[Any, list[float]] = defaultdict(list)
    left = []
    for job in trainings:
        if (folder / job.id).is_dir():
            result = json.loads((folder / job.id / RESULT).read_text(encoding="utf-8"))
            spent[job.kind].append(result["seconds"])
        else:
            left.append(job.kind)
    if not set(left) <= spent.keys():
        return None
    return sum(mean(spent[kind]) for kind in left)


def prepare(grid: Grid, runs: Path) -> None:
    """Make the folders of a run, and write down what the grid is.

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
        unfinished.write_text(json.dumps(described(grid), indent=1) + "\n", encoding="utf-8")
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
    """About how much a grid will write yet."""
    cost = estimate(grid, runs)
    videos = {
        (cell.setting.task, cell.setting.seed): cell.setting.task for cell in grid.cells
    }.values()
    embedded = sum(count(task) * task.frames for task in videos) * _EMBEDDING_BYTES
    trained = (cost.trainings - cost.trainings_done) * _TRAINING_BYTES
    return SPARE_BYTES + embedded + trained + cost.questions * _RECORD_BYTES


def described(grid: Grid) -> dict[str, Any]:
    """A grid as ``grid.json`` has it: for the report, which makes no cells anew."""
    return {
        "name": grid.name,
        "note": grid.note,
        "axes": list(grid.axes),
        "rows": [
            {
                "label": row.label,
                "values": row.values,
                "cells": {str(cell.setting.seed): cell.id for cell in row.cells},
                "trained": row.cells[0].training is not None,
            }
            for row in grid.rows
        ],
    }


def jobs_of(
    grid: Grid, runs: Path, device: str, show: Callable[[str, int, int], None]
) -> list[Job]:
    """Trainings first, then cells, row by row.

    Args:
        show: Called with what is going on, how much of it is done, and how much there is.
    """
    shelf = Shelf(runs / "embeddings", runs / "leases", grid.lease_seconds)
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
        def run(folder: Path, lease: Lease) -> None:
            def progress(done: int, total: int) -> None:
                show("questions", done, total)

            source = cell.source(trained)
            run_cell(cell, source, folder, shelf, lease, device, progress)

        needs = (trained / cell.training.id,) if cell.training else ()
        title = f"cell {cell.id} ({row.label}, seed {cell.setting.seed})"
        return Job(cell.id, title, runs / "cells" / cell.id, needs, run)

    return [*trainings, *(job(row, cell) for row in grid.rows for cell in row.cells)]
