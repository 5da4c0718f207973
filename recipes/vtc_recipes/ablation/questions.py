"""The questions of a task, each with its video, answer and evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vtc_recipes.ablation.config import Task
from vtc_recipes.ablation.hashing import digest
from vtc_recipes.ablation.videos import VideoQuestion, read_videos
from vtc_recipes.synthetic import make_example
from vtc_recipes.synthetic.cases import Case, make_cases, read_cases

SEEDS_APART = 100_000
"""Number of example indices reserved for each seed."""


@dataclass(frozen=True)
class Item:
    """A question about a video.

    Attributes:
        id: The same in every cell with this task and seed, so that answers can be paired.
        kind, question, answer, choices, evidence: See `Case`; the evidence is None if it is
            unknown.
        video: Builds the video for ``vtc.ask``.
        video_id: A name for the video, derived from the values that determine it.
    """

    id: str
    kind: str
    question: str
    answer: str
    choices: tuple[str, ...]
    evidence: Sequence[Sequence[int]] | None
    video: Callable[[], Any]
    video_id: str


_READERS: dict[str, Callable[[str], Sequence[Any]]] = {
    "cases": read_cases,
    "videos": read_videos,
}


def questions(task: Task, seed: int) -> Iterator[Item]:
    """Yield the questions of a task; each is generated when needed."""
    if task.name == "videos":
        rows = enumerate(read_videos(str(task.file)))
        return (
            _item(row, number, None, partial(row.source, task), _sampling(row.video, task))
            for number, row in rows
        )
    if task.name == "questions":
        return (_example(task, seed, number) for number in range(task.examples))
    cases = _needles(task, seed) if task.name == "needles" else read_cases(str(task.file))
    return (
        _item(case, number, case.evidence, case.video, asdict(case))
        for number, case in enumerate(cases)
    )


def count(task: Task) -> int:
    """Return the number of questions per seed."""
    if task.name in _READERS:
        return len(_READERS[task.name](str(task.file)))
    return task.examples * (task.depths if task.name == "needles" else 1)


def check_prompt(task: Task, prompt: str) -> list[str]:
    """Return an error if the prompt needs choices and a question of the file has none."""
    if "{choices}" not in prompt or task.name not in _READERS:
        return []
    rows = _READERS[task.name](str(task.file))
    missing = [number for number, row in enumerate(rows, 1) if not row.choices]
    if not missing:
        return []
    return [
        f"prompt: {{choices}} would be empty in {len(missing)} of {len(rows)} questions, first in "
        f"number {missing[0]} of {task.file}; add choices, or set base.prompt={{question}}"
    ]


def check_task(task: Task) -> list[str]:
    """Return the errors of a task; none if its first questions can be generated."""
    if task.name in _READERS and (task.file is None or not Path(task.file).is_file()):
        return [f"task.file: task {task.name!r} needs an existing file, got {task.file!r}"]
    if task.examples > SEEDS_APART:
        return [f"task.examples: expected examples <= {SEEDS_APART}, got {task.examples}"]
    if task.fps is not None and task.name != "videos":
        return [f"task.fps: expected task.name to be 'videos', got {task.name!r}; remove fps"]
    try:
        for item, _ in zip(questions(task, 0), task.kinds, strict=False):
            item.video()
    except (ValueError, OSError) as error:
        return [f"task: {error}"]
    return []


def _sampling(video: str, task: Task) -> list[Any]:
    return [video, task.frames] if task.fps is None else [video, task.frames, task.fps]


def _example(task: Task, seed: int, number: int) -> Item:
    kind, seed_index = task.kinds[number % len(task.kinds)], seed * SEEDS_APART + number
    example = make_example(seed_index, task.frames, kind=kind, split=task.split, size=task.size)
    question = example.question
    return Item(
        id=str(number),
        kind=kind,
        question=question.text,
        answer=question.answer,
        choices=question.choices,
        evidence=question.evidence,
        video=lambda: example.video,
        video_id=digest([seed_index, task.frames, kind, task.split, task.size]),
    )


def _needles(task: Task, seed: int) -> list[Case]:
    return make_cases(
        [task.frames],
        [number / max(1, task.depths - 1) for number in range(task.depths)],
        task.examples,
        needle_frames=task.needle_frames,
        kinds=task.kinds,
        seed=seed * SEEDS_APART,
        split=task.split,
        size=(task.size, task.size),
    )


def _item(
    row: Case | VideoQuestion,
    number: int,
    evidence: Sequence[Sequence[int]] | None,
    video: Callable[[], Any],
    identity: Any,
) -> Item:
    return Item(
        id=str(number),
        kind=row.kind,
        question=row.question,
        answer=row.answer,
        choices=row.choices,
        evidence=evidence,
        video=video,
        video_id=digest(identity),
    )
