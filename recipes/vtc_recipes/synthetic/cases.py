"""Make, write and read needle-in-a-haystack cases, one JSON object per line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from vtc.interfaces.part import require
from vtc.plugins.sections import parse_json, read_text
from vtc.video import VideoSource
from vtc_recipes.schema import Fraction, Items, Section, parse
from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.examples import make_example
from vtc_recipes.synthetic.questions import KINDS, Example
from vtc_recipes.synthetic.scenes import Scene
from vtc_recipes.synthetic.splice import Splice
from vtc_recipes.synthetic.videos import random_video

ASKED = ("colour", "first", "last", "after", "spark")
"""The kinds of questions about needles, by default."""


@dataclass(frozen=True)
class Case:
    """One question about a needle, with everything that determines its video.

    Attributes:
        length: Number of frames of haystack and needle together.
        depth: Approximate position of the needle: 0 at the start, 1 at the end.
        start: First frame of the needle.
        needle_frames: Number of frames of the needle.
        question: The question.
        answer: The right answer.
        choices: All possible answers; empty for an open question.
        evidence: Ranges (first, end) of frames of the whole video; the answer needs a frame of
            **each**.
        seed: Seed of a synthetic needle and haystack.
        kind: Kind of question about a synthetic needle.
        split: Split of synthetic scenes.
        size: Height and width of synthetic frames in pixels.
        haystack: A video file in place of a synthetic haystack; it is sampled evenly.
        needle: A video file in place of a synthetic needle, likewise.

    Raises:
        ValueError: A number is out of range, or the answer is not among the choices.
    """

    length: int
    depth: float
    start: int
    needle_frames: int
    question: str
    answer: str
    evidence: tuple[tuple[int, int], ...]
    choices: tuple[str, ...] = ()
    seed: int = 0
    kind: str = "colour"
    split: str = "test"
    size: tuple[int, int] = (48, 48)
    haystack: str | None = None
    needle: str | None = None

    def __post_init__(self) -> None:
        _check_length(self.length, self.needle_frames)
        require(0 <= self.depth <= 1, "depth", self.depth, "0 (start) to 1 (end)")
        last = self.length - self.needle_frames
        require(0 <= self.start <= last, "start", self.start, f"0 to {last}")
        valid = not self.choices or self.answer in self.choices
        require(valid, "answer", self.answer, f"one of the choices {self.choices}")
        inside = all(0 <= first < end <= self.length for first, end in self.evidence)
        allowed = f"at least one range (first, end) within the {self.length} frames"
        require(bool(self.evidence) and inside, "evidence", self.evidence, allowed)

    def video(self) -> VideoSource:
        """Return the haystack with the needle in it, one frame per second, read lazily.

        Raises:
            ValueError: The seed gives another question in this version, or a file is too short.
        """
        count = self.length - self.needle_frames
        if self.needle:
            needle: Any = _sampled(self.needle, self.needle_frames)
            haystack: Any = self._haystack(count, lambda scene: True)
        else:
            example = self._example()
            needle = example.video
            haystack = self._haystack(count, example.question.is_unrelated_to)
        return VideoSource(Splice(haystack, needle, self.start))

    def _haystack(self, frames: int, condition: Callable[[Scene], bool]) -> Any:
        if self.haystack:
            return _sampled(self.haystack, frames)
        return random_video(
            self.seed, frames, split=self.split, size=self.size, condition=condition
        )

    def _example(self) -> Example:
        example = _needle(self.seed, self.needle_frames, self.kind, self.split, self.size)
        generated = (
            example.question.text,
            example.question.answer,
            _shifted_evidence(example, self.start),
        )
        if generated != (self.question, self.answer, self.evidence):
            raise ValueError(
                f"expected the question, answer and evidence {generated} for seed {self.seed}, got "
                f"{(self.question, self.answer, self.evidence)}: the case was edited or comes from "
                "another version; generate the cases again"
            )
        return example


def make_cases(
    lengths: Sequence[int],
    depths: Sequence[float],
    count: int,
    *,
    spread: float = 0.1,
    needle_frames: int = 16,
    kinds: Sequence[str] = ASKED,
    seed: int = 0,
    split: str = "test",
    size: tuple[int, int] = (48, 48),
    haystack: str | None = None,
) -> list[Case]:
    """Make cases for every length and depth.

    All lengths and depths share their needles, and all depths of a length share their haystacks, so
    that cells differ only by length and depth.

    Args:
        lengths: Numbers of frames of the whole videos.
        depths: 0 (start) to 1 (end).
        count: Number of cases per length and depth.
        spread: Maximum difference between the true depth and the one in ``depths``. Without it,
            evenly spaced keyframes hit all needles of a cell or none.
        needle_frames: Number of frames per needle; the question may need only some of them.
        kinds: Kinds of questions, used in turn.
        seed: Seed of the first case of each cell; the next cases have the next seeds.
        split: Split of all scenes.
        size: Height and width of frames in pixels.
        haystack: A video file to use in all cases in place of synthetic haystacks.

    Raises:
        ValueError: A number is out of range, a kind unknown, or a length too short.
    """
    require(count >= 1, "count", count, "an integer >= 1")
    for name, values in (("lengths", lengths), ("depths", depths), ("kinds", kinds)):
        require(len(values) > 0, name, values, "at least one")
    require(0 <= spread <= 1, "spread", spread, "0 (exactly at the depths) to 1 (anywhere)")
    for length in lengths:
        _check_length(length, needle_frames)
    cases = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        example = _needle(seed + number, needle_frames, kind, split, size)
        rng = np.random.default_rng((SPLITS.index(split), seed + number, 3))
        for depth in depths:
            true_depth = min(1.0, max(0.0, depth + spread * rng.uniform(-1, 1)))
            for length in lengths:
                start = round(true_depth * (length - needle_frames))
                case = Case(
                    length=length,
                    depth=depth,
                    start=start,
                    needle_frames=needle_frames,
                    question=example.question.text,
                    answer=example.question.answer,
                    evidence=_shifted_evidence(example, start),
                    choices=example.question.choices,
                    seed=seed + number,
                    kind=kind,
                    split=split,
                    size=size,
                    haystack=haystack,
                )
                cases.append(case)
    return sorted(cases, key=lambda case: (case.length, case.depth))


def write_cases(path: str | os.PathLike[str], cases: Iterable[Case]) -> None:
    """Write one JSON object per line."""
    lines = [json.dumps(asdict(case)) + "\n" for case in cases]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_cases(path: str | os.PathLike[str]) -> list[Case]:
    """Read cases written by `write_cases` or by hand.

    Raises:
        ValueError: A line holds no valid case, or the file holds none; the message names the line.
    """
    cases = []
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        label = f"{path}, line {number}"
        row = parse(_CaseRow, parse_json(line, label), label)
        try:
            cases.append(Case(**dict(row)))
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
    if not cases:
        raise ValueError(f"expected at least one case in {path}, got an empty file")
    return cases


_Range = Annotated[tuple[NonNegativeInt, NonNegativeInt], Field(strict=False)]


class _CaseRow(Section):
    """The types of a case's values; `Case` checks the values."""

    length: PositiveInt
    depth: Fraction
    start: NonNegativeInt
    needle_frames: PositiveInt
    question: str
    answer: str
    evidence: Items[_Range]
    choices: Items[str] = ()
    seed: NonNegativeInt = Case.seed
    kind: str = Case.kind
    split: str = Case.split
    size: Annotated[tuple[PositiveInt, PositiveInt], Field(strict=False)] = Case.size
    haystack: str | None = None
    needle: str | None = None


def _needle(seed: int, frames: int, kind: str, split: str, size: tuple[int, int]) -> Example:
    # make_example raises on an unknown kind.
    return make_example(seed, frames, kind=kind, split=split, size=size, segments=KINDS.get(kind))


def _shifted_evidence(example: Example, start: int) -> tuple[tuple[int, int], ...]:
    return tuple((start + first, start + end) for first, end in example.question.evidence)


def _sampled(path: str, frames: int) -> VideoSource:
    source = VideoSource(path, frames=frames)
    if len(source) < frames:
        raise ValueError(f"expected at least {frames} frames in {path}, got {len(source)}")
    return source


def _check_length(length: int, needle_frames: int) -> None:
    allowed = f"1 to {length - 1}, in a video of {length} frames"
    require(1 <= needle_frames < length, "needle_frames", needle_frames, allowed)
