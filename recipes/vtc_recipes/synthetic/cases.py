"""Cases of a needle in a haystack: made, written and read, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vtc.video import VideoSource
from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.examples import Example, make_example
from vtc_recipes.synthetic.questions import KINDS
from vtc_recipes.synthetic.scenes import Scene
from vtc_recipes.synthetic.splice import Splice
from vtc_recipes.synthetic.videos import random_video

ASKED = ("colour", "first", "last", "after", "spark")
"""The kinds of questions that needles are about, unless others are asked for."""


@dataclass(frozen=True)
class Case:
    """One question about a needle, and all that is needed to make its video again.

    Attributes:
        length: Frames of haystack and needle together.
        depth: About where the needle is: 0 at the front, 1 at the end.
        start: Exactly where: the first frame of the needle.
        needle_frames: Frames of the needle.
        question, answer, choices: What is asked, what is right, and what else could be; without
            choices the answer is free.
        evidence: Ranges of frames of the whole video, first and end, of **each** of which a frame
            must be seen.
        seed: Makes the needle and the haystack, where they are synthetic; so do ``kind`` (of the
            question), ``split`` and ``size`` (height and width).
        haystack: A video file instead of a synthetic haystack; it is sampled evenly.
        needle: A video file instead of a synthetic needle, likewise.
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
        if not 0 <= self.depth <= 1:
            raise ValueError(f"depth={self.depth}: allowed is 0 (front) to 1 (end)")
        if not 0 <= self.start <= self.length - self.needle_frames:
            raise ValueError(
                f"start={self.start}: a needle of {self.needle_frames} frames in a video of "
                f"{self.length} starts at 0 to {self.length - self.needle_frames}"
            )
        if self.choices and self.answer not in self.choices:
            raise ValueError(f"answer={self.answer!r} is none of the choices {self.choices}")
        inside = all(0 <= first < end <= self.length for first, end in self.evidence)
        if not self.evidence or not inside:
            raise ValueError(
                f"evidence={self.evidence}: at least one range (first, end) within the "
                f"{self.length} frames is needed"
            )

    def video(self) -> VideoSource:
        """The haystack with the needle in it; one frame a second, drawn or decoded when read.

        Raises:
            ValueError: The seed makes another question here, or a file is too short.
        """
        count = self.length - self.needle_frames
        if self.needle:
            needle: Any = _sampled(self.needle, self.needle_frames)
            haystack: Any = self._haystack(count, lambda scene: True)
        else:
            example = self._example()
            needle = example.video
            haystack = self._haystack(count, example.question.left_alone_by)
        return VideoSource(Splice(haystack, needle, self.start))

    def _haystack(self, frames: int, wanted: Callable[[Scene], bool]) -> Any:
        if self.haystack:
            return _sampled(self.haystack, frames)
        return random_video(self.seed, frames, split=self.split, size=self.size, wanted=wanted)

    def _example(self) -> Example:
        example = _needle(self.seed, self.needle_frames, self.kind, self.split, self.size)
        made = example.question.text, example.question.answer, _moved(example, self.start)
        if made != (self.question, self.answer, self.evidence):
            raise ValueError(
                f"seed={self.seed} makes the question, answer and evidence {made}, and the case "
                f"has {(self.question, self.answer, self.evidence)}: it was changed, or made by "
                "another version; make the cases anew"
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
    """Cases for every length and depth.

    Needles are the same for all lengths and depths, and haystacks for all depths of a length, so
    that cells differ by what they are about and not by luck.

    Args:
        lengths: Frames of the whole videos.
        depths: 0 (front) to 1 (end).
        count: Cases for each length and depth.
        spread: By how much the true depth may differ from the one in ``depths``, either way. Frames
            taken at even steps would otherwise hit the needles of a cell all or not at all.
        needle_frames: Frames of a needle, of which the question may need but some.
        kinds: Kinds of questions, in turn.
        seed: Of the first case of each cell; the others count on from it.
        split: Of all scenes.
        size: Height and width of frames.
        haystack: A video file that all cases use instead of synthetic haystacks.

    Raises:
        ValueError: A number is out of range, a kind unknown, or a length too short.
    """
    if count < 1 or not lengths or not depths or not kinds:
        raise ValueError("at least one length, one depth, one kind and one case a cell are needed")
    if not 0 <= spread <= 1:
        raise ValueError(f"spread={spread}: allowed is 0 (exactly at the depths) to 1 (anywhere)")
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
                    evidence=_moved(example, start),
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
    """Write one JSON object a line."""
    lines = [json.dumps(asdict(case)) + "\n" for case in cases]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_cases(path: str | os.PathLike[str]) -> list[Case]:
    """Read what `write_cases` wrote, or cases of your own.

    Raises:
        ValueError: A line is no case; the message names it.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    cases = []
    for number, line in enumerate(lines, 1):
        try:
            cases.append(_read_case(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not cases:
        raise ValueError(f"{path} holds no cases")
    return cases


def _read_case(given: Any) -> Case:
    known = {field.name for field in fields(Case)}
    if not isinstance(given, dict) or not given.keys() <= known:
        wrong = sorted(given.keys() - known) if isinstance(given, dict) else given
        raise ValueError(f"{wrong}: a case has the keys {', '.join(sorted(known))}")
    required = {field.name for field in fields(Case) if field.default is MISSING}
    if missing := sorted(required - given.keys()):
        raise ValueError(f"a case needs {', '.join(missing)} too")
    lists = {
        "evidence": tuple((int(first), int(end)) for first, end in given.get("evidence", ())),
        "choices": tuple(given.get("choices", ())),
        "size": tuple(given.get("size", Case.size)),
    }
    return Case(**{**given, **lists})


def _needle(seed: int, frames: int, kind: str, split: str, size: tuple[int, int]) -> Example:
    scenes = KINDS.get(kind)  # an unknown kind is make_example's to refuse
    return make_example(seed, frames, kind=kind, split=split, size=size, segments=scenes)


def _moved(example: Example, start: int) -> tuple[tuple[int, int], ...]:
    return tuple((start + first, start + end) for first, end in example.question.evidence)


def _sampled(path: str, frames: int) -> VideoSource:
    source = VideoSource(path, frames=frames)
    if len(source) < frames:
        raise ValueError(f"{path} has {len(source)} frames, and {frames} are needed")
    return source


def _check_length(length: int, needle_frames: int) -> None:
    if not 1 <= needle_frames < length:
        raise ValueError(
            f"a needle of {needle_frames} frames in a video of {length}: the needle needs at "
            "least one frame, and the haystack too"
        )
