"""Prepare a user's data folder for lmms-eval: annotations, a link to the videos, and task files.

Only the annotations are copied. lmms-eval looks for videos under ``$HF_HOME``, where a link points
to the data folder, and downloads nothing because the link exists.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vtc.plugins.sections import load_json, parse_json, read_text
from vtc_recipes.evaluation.harness.tasks import Task
from vtc_recipes.evaluation.resuming import write_lines
from vtc_recipes.reading import parquet_rows

ROW = "vtc_row"
"""The field of a prepared row with its index in the user's annotations."""
_ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tar.part*")
_SHOWN = 3


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        part: The part of the task.
        number: Its index in the user's annotations of the part, from 0.
        video: The file or folder of its video.
        row: The row of the annotations.
    """

    part: str
    number: int
    video: Path
    row: dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A task and the questions of a data folder.

    Attributes:
        name: The name of the task.
        data: The user's folder.
        questions: The questions to ask, part by part.
        total: Number of questions in the annotations.
        missing: Number of these questions without a video in the folder.
    """

    name: str
    task: Task
    data: Path
    questions: list[Question]
    total: int
    missing: int


def read_benchmark(
    name: str, task: Task, data: Path, *, limit: int | None = None, only_present: bool = False
) -> Benchmark:
    """Read the annotations in a data folder, and find the videos.

    Args:
        limit: Use only the first questions of each part.
        only_present: Skip questions whose video is missing.

    Raises:
        ValueError: Annotations or videos are missing, or a row lacks a field.
    """
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder; pass the folder of {name} as --data")
    data = data.resolve()
    questions: list[Question] = []
    missing: list[str] = []
    total = 0
    for part in task.config:
        rows = _read_rows(name, task, part, data)
        total += len(rows)
        present: list[Question] = []
        for number, row in enumerate(rows):
            if limit is not None and len(present) == limit:
                break
            places = task.videos(row, part)
            video = next((data / place for place in places if (data / place).exists()), None)
            if video is None:
                missing.append(places[0])
                if only_present:
                    continue
            present.append(Question(part, number, video or data / places[0], row))
        questions += present
    if missing and (not only_present or not questions):
        raise ValueError(_missing_message(missing, len(missing) + len(questions), data))
    return Benchmark(name, task, data, questions, total, len(missing))


def _missing_message(missing: Sequence[str], questions: int, data: Path) -> str:
    videos = list(dict.fromkeys(missing))
    message = (
        f"{len(videos)} videos are missing in {data}, such as {', '.join(videos[:_SHOWN])}; "
        "complete the folder, or skip their questions with --only-present"
    )
    archives = [file.name for pattern in _ARCHIVES for file in sorted(data.rglob(pattern))]
    if archives:
        message += f"; unpack its archives, such as {archives[0]}, if you have not done so"
    return message


def _read_rows(name: str, task: Task, part: str, data: Path) -> list[dict[str, Any]]:
    label = f"{name}, {part}" if part else name
    files = _annotation_files(task, part, data)
    if not files:
        patterns = " or ".join(pattern.format(part=part) for pattern in task.annotations)
        raise ValueError(f"{data} has no annotations of {label}; expected a file {patterns}")
    rows = [row for file in files for row in _rows_of(file)]
    if not rows:
        raise ValueError(f"{files[0]} holds no question")
    for number, row in enumerate(rows):
        absent = [field for field in task.fields if field not in row]
        if absent:
            raise ValueError(
                f"{files[0]}, row {number} lacks {', '.join(absent)}; expected the annotations of "
                f"{label} that lmms-eval reads, with the fields {', '.join(task.fields)}"
            )
    return rows


def _annotation_files(task: Task, part: str, data: Path) -> list[Path]:
    """Return the files that match the first successful pattern, from one folder."""
    for pattern in task.annotations:
        files = sorted(data.glob(pattern.format(part=part)))
        if files:
            return [file for file in files if file.parent == files[0].parent]
    return []


def _rows_of(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return parquet_rows(file)
    if file.suffix == ".jsonl":
        lines = enumerate(read_text(file).split("\n"), 1)
        rows: Any = [parse_json(t, f"{file}, line {n}") for n, t in lines if t.strip()]
    else:
        rows = load_json(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{file}: expected a list of rows, got {type(rows).__name__}")
    return rows


def interleave(questions: Sequence[Question], ranks: int) -> list[Question]:
    """Order questions so that those about one video go to one process.

    lmms-eval gives question i to process ``i % ranks``.

    Args:
        ranks: Number of processes that share the questions.

    Returns:
        All questions; those at i, i + ranks, ... go to one process. Numbers of questions differ by
        at most one, so the questions about a few videos are split between two processes.
    """
    videos: dict[Path, list[Question]] = {}
    for question in questions:
        videos.setdefault(question.video, []).append(question)
    by_video = [question for group in videos.values() for question in group]
    minimum, extra = divmod(len(by_video), ranks)
    shares, start = [], 0
    for rank in range(ranks):
        end = start + minimum + (rank < extra)
        shares.append(by_video[start:end])
        start = end
    return [share[step] for step in range(minimum + 1) for share in shares if step < len(share)]


def prepare(benchmark: Benchmark, tasks_folder: Path, folder: Path, ranks: int = 1) -> list[str]:
    """Write the input files of lmms-eval to a folder.

    Args:
        tasks_folder: The folder of lmms-eval's own tasks.
        folder: The absolute path of the folder for ``tasks``, ``annotations`` and ``hf_home``.
        ranks: Number of processes that share the questions.

    Returns:
        The names of the tasks for ``lmms-eval --tasks``.

    Raises:
        ValueError: The installed lmms-eval lacks a task.
    """
    task = benchmark.task
    link = folder / "hf_home" / task.cache_dir
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    os.symlink(benchmark.data, link)
    names = []
    for part, config in task.config.items():
        installed = tasks_folder / config
        if not installed.is_file():
            raise ValueError(
                f"the installed lmms-eval has no task {config}; expected 0.7.3 to 0.7.x"
            )
        name = task_name(benchmark.name, part)
        selected = [question for question in benchmark.questions if question.part == part]
        if not selected:
            continue
        rows = [{**q.row, ROW: q.number} for q in interleave(selected, ranks)]
        annotations = folder / "annotations" / name
        annotations.mkdir(parents=True, exist_ok=True)
        write_lines(annotations / f"{task.split}.jsonl", rows)
        values = {
            "include": str(installed),
            "task": name,
            "dataset_path": str(annotations),
            "dataset_name": None,
            "dataset_kwargs": {"cache_dir": task.cache_dir, "video": True},
        }
        (folder / "tasks").mkdir(exist_ok=True)
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        names.append(name)
    return names


def task_name(name: str, part: str) -> str:
    """Return the name of the task that `prepare` writes.

    >>> task_name("mvbench", "action_count")
    'vtc_mvbench_action_count'
    """
    return f"vtc_{name}_{part}" if part else f"vtc_{name}"
