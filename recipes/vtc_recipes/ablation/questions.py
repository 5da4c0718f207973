"""The questions of a task, one by one, each with its video, its answer and its evidence."""

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
"""Examples of one seed; those of the next one begin behind them."""


@dataclass(frozen=True)
class Item:
    """A question about a video.

    Attributes:
        id: The same in every cell of the task and seed, so that answers can be compared in pairs.
        kind, question, answer, choices, evidence: As those of a `Case`; the evidence is None where
            nobody knows it.
        video: Makes the video anew, for ``vtc.ask``.
        video_id: A name for the video, by what it is made from.
    """

    id: str
    kind: str
    question: str
    answer: str
    choices: tuple[str, ...]
    evidence: Sequence[Sequence[int]] | None
    video: Callable[[], Any]
    video_id: str


_OF_A_FILE: dict[str, Callable[[str], Sequence[Any]]] = {
    "cases": read_cases,
    "videos": read_videos,
}


def questions(task: Task, seed: int) -> Iterator[Item]:
    """All questions of a task, made one by one while they are asked."""
    if task.name == "videos":
        asked = enumerate(read_videos(str(task.file)))
        return (
            _item(one, number, None, partial(one.source, task.frames), [one.video, task.frames])
            for number, one in asked
        )
    if task.name == "questions":
        return (_example(task, seed, number) for number in range(task.examples))
    cases = _needles(task, seed) if task.name == "needles" else read_cases(str(task.file))
    return (
        _item(case, number, case.evidence, case.video, asdict(case))
        for number, case in enumerate(cases)
    )


def count(task: Task) -> int:
    """How many questions a task has for each seed."""
    if task.name in _OF_A_FILE:
        return len(_OF_A_FILE[task.name](str(task.file)))
    return task.examples * (task.depths if task.name == "needles" else 1)


def check_task(task: Task) -> list[str]:
    """What is wrong with a task; nothing, if its first questions can be made."""
    if task.name in _OF_A_FILE and (task.file is None or not Path(task.file).is_file()):
        return [f"task.file: {task.file!r}: a task of {task.name} needs a file of them"]
    if task.examples > SEEDS_APART:
        return [f"task.examples: {task.examples}: allowed is up to {SEEDS_APART}"]
    try:
        for item, _ in zip(questions(task, 0), task.kinds, strict=False):
            item.video()
    except (ValueError, OSError) as error:
        return [f"task: {error}"]
    return []


def _example(task: Task, seed: int, number: int) -> Item:
    kind, drawn = task.kinds[number % len(task.kinds)], seed * SEEDS_APART + number
    example = make_example(drawn, task.frames, kind=kind, split=task.split, size=task.size)
    question = example.question
    return Item(
        id=str(number),
        kind=kind,
        question=question.text,
        answer=question.answer,
        choices=question.choices,
        evidence=question.evidence,
        video=lambda: example.video,
        video_id=digest([drawn, task.frames, kind, task.split, task.size]),
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
    asked: Case | VideoQuestion,
    number: int,
    evidence: Sequence[Sequence[int]] | None,
    video: Callable[[], Any],
    made_from: Any,
) -> Item:
    return Item(
        id=str(number),
        kind=asked.kind,
        question=asked.question,
        answer=asked.answer,
        choices=asked.choices,
        evidence=evidence,
        video=video,
        video_id=digest(made_from),
    )
