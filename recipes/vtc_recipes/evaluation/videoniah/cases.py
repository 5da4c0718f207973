"""VideoNIAH cases: a clip, its position, and the videos around it; one JSON object per line."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from vtc.interfaces.part import require
from vtc.plugins.sections import Section, SectionError
from vtc_recipes.evaluation.videoniah.questions import ClipQuestion
from vtc_recipes.reading import read_rows
from vtc_recipes.schema import Items

LENGTHS = (2000, 4000, 6000, 8000, 10000)
"""Numbers of frames in section 5.3."""
DEPTHS, EACH = 5, 120
"""Number of depths, and of cases per length and depth: 3,000 in total."""
NEEDLE_SECONDS = (30.0, 120.0)
HAYSTACK_SECONDS = 1800.0
"""Minimum length of a haystack video; Video-MME's long videos have 30 minutes or more."""


class Clip(Section):
    """Consecutive frames of a video at one frame per second.

    Attributes:
        video: The file, relative to the folder of videos.
        first: The first frame.
        frames: Number of frames.
    """

    video: str
    first: int
    frames: int


class NiahCase(Section):
    """One question about a clip, and the videos around it.

    Attributes:
        id: A name that is unique in a file.
        length: Number of frames of haystack and needle together, at one frame per second.
        depth: Approximate position of the needle: 0 at the start, 1 at the end.
        start: First frame of the needle in the whole video.
        needle: The clip that the question is about.
        haystack: The clips around it, in order; the needle may split one of them.
        question, options, answer, kind: See `ClipQuestion`.
    """

    id: str
    length: int
    depth: float
    start: int
    needle: Clip
    haystack: Items[Clip]
    question: str
    options: Items[str]
    answer: str
    kind: str

    def contradictions(self) -> Iterator[str]:
        """Yield errors in the combination of values."""
        clips = (self.needle, *self.haystack)
        if any(clip.first < 0 or clip.frames < 1 for clip in clips):
            yield "expected clips with first >= 0 and frames >= 1"
        total = sum(clip.frames for clip in clips)
        if total != self.length:
            yield f"length: expected the {total} frames of needle and haystack, got {self.length}"
        last = self.length - self.needle.frames
        if not 0 <= self.start <= last:
            yield f"start: expected 0 to {last}, got {self.start}"
        letters = ascii_uppercase[: len(self.options)]
        if self.answer not in letters or len(self.answer) != 1:
            yield f"answer: expected one of {', '.join(letters)}, got {self.answer!r}"

    @property
    def repeats(self) -> int:
        """The maximum number of times that a video appears in the haystack."""
        return max(Counter(clip.video for clip in self.haystack).values(), default=0)


def make_cases(
    questions: Sequence[ClipQuestion],
    frames: Mapping[str, int],
    *,
    lengths: Sequence[int] = LENGTHS,
    depths: int = DEPTHS,
    each: int = EACH,
    spread: float = 0.1,
    needle_seconds: tuple[float, float] = NEEDLE_SECONDS,
    haystack_seconds: float = HAYSTACK_SECONDS,
    repeat: bool = False,
    seed: int = 0,
) -> list[NiahCase]:
    """Make cases for every length and depth.

    All lengths share their questions, and over the lengths each question takes different depths:
    question q has depth (q + l) modulo D in length l. Kinds of questions alternate. A question's
    longer haystacks start with the videos of its shorter ones.

    Args:
        questions: The questions; those whose clip is too short or too long are skipped.
        frames: The number of frames of each video at one frame per second.
        lengths: Numbers of frames of the whole videos.
        depths: Number of evenly spaced depths, from 0 to 1.
        each: Number of cases per length and depth.
        spread: Maximum difference between the true depth and the evenly spaced one.
        needle_seconds: Minimum and maximum length of a clip.
        haystack_seconds: Minimum length of a haystack video.
        repeat: Let haystacks repeat their videos if there are too few.
        seed: The random seed.

    Raises:
        ValueError: A number is out of range, no question has a clip of that length, or the videos
            are too short for a haystack.
    """
    for name, number in (("depths", depths), ("each", each)):
        require(number >= 1, name, number, "an integer >= 1")
    require(0 <= spread <= 1, "spread", spread, "0 (exactly at the depths) to 1 (anywhere)")
    needles = [(q, _clip(q, frames)) for q in questions if q.video in frames]
    low, high = needle_seconds
    needles = [(q, clip) for q, clip in needles if low <= clip.frames <= high]
    if not needles:
        raise ValueError(
            f"none of {len(questions)} questions is about a clip of {low:g} to {high:g} seconds; "
            "give start and end in its row, or other --needle-seconds"
        )
    longest = max(clip.frames for _, clip in needles)
    for length in lengths:
        require(length > longest, "lengths", length, f"more than {longest}, the longest needle")
    hay = sorted(name for name, count in frames.items() if count >= haystack_seconds)
    order = _alternate_kinds(needles, np.random.default_rng(seed))
    cases = []
    for number in range(depths * each):
        question, clip = order[number % len(order)]
        rng = np.random.default_rng((seed, number))
        offset = spread * rng.uniform(-1, 1)
        others = [name for name in hay if name != question.video]
        rng.shuffle(others)
        for place, length in enumerate(lengths):
            depth = ((number + place) % depths) / max(1, depths - 1)
            room = length - clip.frames
            case = NiahCase(
                id=f"{length}-{number}",
                length=length,
                depth=depth,
                start=round(min(1.0, max(0.0, depth + offset)) * room),
                needle=clip,
                haystack=_haystack(others, frames, room, repeat, haystack_seconds),
                question=question.question,
                options=question.options,
                answer=question.answer,
                kind=question.kind,
            )
            cases.append(case)
    return sorted(cases, key=lambda case: (case.length, case.depth))


def write_cases(path: Path, cases: Sequence[NiahCase]) -> None:
    """Write one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(case.model_dump_json() + "\n" for case in cases), encoding="utf-8")


def read_cases(path: Path) -> list[NiahCase]:
    """Read cases.

    Raises:
        ValueError: The file cannot be read or holds no cases; a `SectionError` lists all errors in
            it.
    """
    rows, errors = read_rows(path, NiahCase)
    cases = [row for _, row in rows]
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    errors += [f"{path}: id {name!r} appears twice" for name in twice]
    if errors:
        raise SectionError(str(path), errors[:20])
    if not cases:
        raise ValueError(f"expected at least one case in {path}, got an empty file")
    return cases


def digest(cases: Sequence[NiahCase]) -> str:
    """Return a hash of cases."""
    text = "".join(case.model_dump_json() for case in cases)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _clip(question: ClipQuestion, frames: Mapping[str, int]) -> Clip:
    length = frames[question.video]
    first = math.ceil(question.start or 0.0)
    end = length if question.end is None else min(length, math.ceil(question.end))
    return Clip(video=question.video, first=first, frames=max(0, end - first))


def _alternate_kinds(needles: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Shuffle the questions of each kind, and alternate between kinds."""
    kinds: dict[str, list[Any]] = {}
    for needle in needles:
        kinds.setdefault(needle[0].kind, []).append(needle)
    columns = []
    for kind in sorted(kinds):
        order = rng.permutation(len(kinds[kind])).tolist()
        columns.append([kinds[kind][number] for number in order])
    turns = itertools.zip_longest(*columns)
    return [needle for turn in turns for needle in turn if needle is not None]


def _haystack(
    videos: Sequence[str], frames: Mapping[str, int], room: int, repeat: bool, least: float
) -> tuple[Clip, ...]:
    available = sum(frames[name] for name in videos)
    if available == 0 or (available < room and not repeat):
        raise ValueError(
            f"the haystack needs {room} frames at one per second, but the other videos of at least "
            f"{least:g} seconds have {available}; add long videos, lower --haystack-seconds"
            + (", or let them --repeat" if available else "")
        )
    clips = []
    for name in itertools.cycle(videos):
        clips.append(Clip(video=name, first=0, frames=min(room, frames[name])))
        room -= clips[-1].frames
        if room == 0:
            break
    return tuple(clips)
