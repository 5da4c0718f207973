"""Questions about synthetic videos: one right answer each, and the frames that show it.

A question is drawn from its answer: first the answer, each as often as any other, then scenes
that make it true, then scenes that leave it alone. `solve` reads the answer back off all scenes
of a video, and an example whose answer is not the only one is never handed out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vtc_recipes.synthetic.drawing import COLOURS, SHAPES, TEXTURES
from vtc_recipes.synthetic.scenes import SCENES, SPLITS, Scene, find_scene
from vtc_recipes.synthetic.videos import Segment, SyntheticVideo, random_lengths, random_segment

KINDS = {"colour": 1, "first": 2, "last": 2, "after": 2, "spark": 1}
"""The kinds of questions, and how many scenes each is about."""
_TEXTS = {
    "colour": "What colour is the {shape}?",
    "first": "What colour is the first {shape}?",
    "last": "What colour is the last {shape}?",
    "after": "Which shape is {colour} in the scene after the {shape}?",
    "spark": "What colour is the spark?",
}
_PLACES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Question:
    """A question with one right answer.

    Attributes:
        kind: One of ``KINDS``.
        text: The question.
        shape: The shape that is asked for; None for the spark.
        colour: The colour that is asked for, in ``"after"`` only.
        answer: One word.
        choices: All possible answers, each as likely before the video is seen.
        evidence: Ranges of frames, first and end. The answer is known to one who sees a frame
            of **every** range, and to nobody else: the one scene with the shape (``colour``);
            both scenes with it (``first``, ``last``: one alone does not tell which it is); the
            scene with the shape and the one after it (``after``); the frames with the spark.
    """

    kind: str
    text: str
    shape: str | None
    colour: str | None
    answer: str
    choices: tuple[str, ...]
    evidence: tuple[tuple[int, int], ...]

    @property
    def chance(self) -> float:
        """How often a guess is right."""
        return 1 / len(self.choices)

    def left_alone_by(self, scene: Scene) -> bool:
        """Whether a scene put anywhere but between scenes of the question changes nothing."""
        if self.shape is None:
            return scene.spark is None
        return scene.colour_of(self.shape) is None

    def covered_by(self, frames: Sequence[int]) -> bool:
        """Whether these frame numbers show all that the answer needs."""
        return all(any(first <= n < end for n in frames) for first, end in self.evidence)


@dataclass(frozen=True)
class Example:
    """A video and a question about it."""

    video: SyntheticVideo
    question: Question


def make_example(
    seed: int,
    frames: int,
    *,
    kind: str | None = None,
    split: str = "train",
    size: int | tuple[int, int] = 48,
    segments: int | None = None,
    scenes: int = SCENES,
) -> Example:
    """A random video with a question about it.

    Args:
        seed: The same seed and options give the same example.
        frames: Length of the video.
        kind: One of ``KINDS``; drawn by default.
        split: Of all scenes.
        size: Of a frame, as of a `Scene`.
        segments: How many scenes follow one another; one for every eight frames by default, and
            at least as many as the question is about.
        scenes: Draw from the first so many scenes of the split, so that they can be cached.

    Raises:
        ValueError: The kind is unknown, or there are too few frames, segments or scenes for it.

    >>> example = make_example(5, frames=16, kind="after")
    >>> example.question.text, example.question.answer
    """
    rng = np.random.default_rng((SPLITS.index(split), seed, 1))
    if kind is None:
        kind = tuple(KINDS)[rng.integers(len(KINDS))]
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: allowed are {', '.join(map(repr, KINDS))}")
    count = max(KINDS[kind], frames // 8) if segments is None else segments
    if count < KINDS[kind]:
        raise ValueError(f"segments={count}: a question {kind!r} is about {KINDS[kind]} scenes")
    plan = _plan(rng, kind, count)
    lengths = random_lengths(rng, frames, count)
    drawn = [
        random_segment(rng, find_scene(rng, split, size, wanted, scenes), length)
        for wanted, length in zip(plan.scenes, lengths, strict=True)
    ]
    if kind == "spark":
        drawn[plan.places[0]] = _around_spark(rng, drawn[plan.places[0]])
    video = SyntheticVideo(drawn)
    ranges = video.ranges()
    evidence = tuple(ranges[place] for place in plan.places)
    if (shown := drawn[plan.places[0]].spark) and kind == "spark":
        evidence = ((evidence[0][0] + shown[0], evidence[0][0] + shown[1]),)
    text = _TEXTS[kind].format(shape=plan.shape, colour=plan.colour)
    question = Question(kind, text, plan.shape, plan.colour, plan.answer, plan.choices, evidence)
    if solve(question, video) != {plan.answer}:
        raise RuntimeError(f"seed {seed}: {text!r} has the answers {solve(question, video)}")
    return Example(video, question)


def solve(question: Question, video: SyntheticVideo) -> set[str]:
    """All answers that the scenes of a video give to a question; one, if the question is fair."""
    if question.kind == "spark":
        return {
            segment.scene.spark.colour
            for segment in video.segments
            if segment.spark and segment.scene.spark
        }
    assert question.shape is not None
    shows = [segment.scene.colour_of(question.shape) for segment in video.segments]
    places = [place for place, colour in enumerate(shows) if colour is not None]
    if question.kind in ("first", "last"):
        if len(places) != 2:
            return set()
        return {str(shows[places[0 if question.kind == "first" else -1]])}
    if question.kind == "colour":
        return {str(shows[place]) for place in places} if len(places) == 1 else set()
    return {
        shape
        for place in places
        if place + 1 < len(shows)
        and (shape := video.segments[place + 1].scene.shape_of(str(question.colour)))
    }


def caption(scene: Scene, places: bool = False) -> str:
    """What a scene shows: ``"red star, blue ring on stripes"``.

    Args:
        scene: The scene; its spark is not told.
        places: Say where each object is: ``"red star top left, ..."``.
    """
    objects = [
        f"{thing.colour} {thing.shape}" + (f" {_PLACES[thing.quarter]}" if places else "")
        for thing in scene.objects
    ]
    return f"{', '.join(objects)} on {scene.texture}"


def vocabulary() -> tuple[str, ...]:
    """All words and signs of questions, answers and captions, in alphabetical order."""
    texts = [text.format(shape="", colour="") for text in _TEXTS.values()]
    texts += [*SHAPES, *COLOURS, *TEXTURES, *_PLACES, "on", ","]
    return tuple(sorted({word for text in texts for word in words(text)}))


def words(text: str) -> list[str]:
    """The words and signs of a text, in lower case.

    >>> words("What colour is the star?")
    ['what', 'colour', 'is', 'the', 'star', '?']
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


@dataclass(frozen=True)
class _Plan:
    """What each scene of a video must be, for one question."""

    shape: str | None
    colour: str | None
    answer: str
    choices: tuple[str, ...]
    places: tuple[int, ...]
    scenes: list[Callable[[Scene], bool]]


def _plan(rng: np.random.Generator, kind: str, count: int) -> _Plan:
    colours = tuple(COLOURS)
    if kind == "spark":
        answer, place = _pick(rng, colours), int(rng.integers(count))
        scenes = [_without_spark] * count
        scenes[place] = lambda scene: scene.spark is not None and scene.spark.colour == answer
        return _Plan(None, None, answer, colours, (place,), scenes)
    shape = _pick(rng, SHAPES)

    def without(scene: Scene) -> bool:
        return scene.colour_of(shape) is None

    scenes = [without] * count
    if kind == "after":
        choices = tuple(other for other in SHAPES if other != shape)
        answer, colour, place = _pick(rng, choices), _pick(rng, colours), _place(rng, count - 1)
        scenes[place] = lambda scene: not without(scene)
        scenes[place + 1] = lambda scene: without(scene) and scene.colour_of(answer) == colour
        return _Plan(shape, colour, answer, choices, (place, place + 1), scenes)
    answer = _pick(rng, colours)
    if kind == "colour":
        place = _place(rng, count)
        scenes[place] = lambda scene: scene.colour_of(shape) == answer
        return _Plan(shape, None, answer, colours, (place,), scenes)
    other = _pick(rng, [colour for colour in colours if colour != answer])
    pair = sorted(rng.choice(count, 2, replace=False).tolist())
    asked, unasked = pair if kind == "first" else pair[::-1]
    scenes[asked] = lambda scene: scene.colour_of(shape) == answer
    scenes[unasked] = lambda scene: scene.colour_of(shape) == other
    return _Plan(shape, None, answer, colours, tuple(pair), scenes)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


def _place(rng: np.random.Generator, count: int) -> int:
    return int(rng.integers(count))


def _without_spark(scene: Scene) -> bool:
    return scene.spark is None


def _around_spark(rng: np.random.Generator, segment: Segment) -> Segment:
    """The segment moved within its scene, so that it shows the spark as whole as it can."""
    spark = segment.scene.spark
    assert spark is not None
    latest = spark.start
    earliest = max(0, spark.start + spark.length - segment.length)
    start = int(rng.integers(min(earliest, latest), latest + 1))
    return Segment(segment.scene, start, segment.length)
