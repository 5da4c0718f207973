"""Questions about synthetic videos: one right answer each, and the frames that show it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from vtc_recipes.synthetic.drawing import COLOURS, SHAPES, TEXTURES
from vtc_recipes.synthetic.scenes import Scene
from vtc_recipes.synthetic.videos import Segment, SyntheticVideo

KINDS = {"colour": 1, "first": 2, "last": 2, "after": 2, "spark": 1, "texture": 1}
"""The kinds of questions, and how many scenes each is about."""
_TEXTS = {
    "colour": "What colour is the {shape}?",
    "first": "What colour is the first {shape}?",
    "last": "What colour is the last {shape}?",
    "after": "Which shape is {colour} in the scene after the {shape}?",
    "spark": "What colour is the spark?",
    "texture": "What is behind the {shape}?",
}
_PLACES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Question:
    """A question with one right answer.

    Attributes:
        kind: One of ``KINDS``.
        answer: One word.
        evidence: Ranges of frames, first and end. One must see a frame of **every** range to
            know the answer: of the one scene with the shape (``colour``, ``texture``); of both
            scenes with it (``first``, ``last``: one alone does not tell which it is); of the scene
            with the shape and of the one after it (``after``); of the frames with the spark
            (``spark``).
        shape: The shape that is asked for; None for the spark.
        colour: The colour that is asked for, in ``after`` only.
    """

    kind: str
    answer: str
    evidence: tuple[tuple[int, int], ...]
    shape: str | None = None
    colour: str | None = None

    @property
    def text(self) -> str:
        """The question in words."""
        return _TEXTS[self.kind].format(shape=self.shape, colour=self.colour)

    @property
    def choices(self) -> tuple[str, ...]:
        """All possible answers, each as likely as any other before the video is seen."""
        return answers_to(self.kind, self.shape)

    @property
    def chance(self) -> float:
        """How often a guess is right."""
        return 1 / len(self.choices)

    def left_alone_by(self, scene: Scene) -> bool:
        """Whether a scene, put anywhere but between scenes of the question, changes nothing."""
        return scene.spark is None if self.shape is None else scene.colour_of(self.shape) is None


def answers_to(kind: str, shape: str | None) -> tuple[str, ...]:
    """All possible answers to a kind of question about a shape."""
    if kind == "after":  # a scene with the shape itself would make it ask for two scenes
        return tuple(other for other in SHAPES if other != shape)
    return TEXTURES if kind == "texture" else tuple(COLOURS)


def covers(frames: Sequence[int], evidence: Sequence[Sequence[int]]) -> bool:
    """Whether ascending frame numbers hold one of every range of frames, first and end.

    >>> covers([3, 10], [(0, 4), (10, 12)]), covers([4, 9], [(0, 4), (10, 12)])
    (True, False)
    """
    return all(bisect_left(frames, first) < bisect_left(frames, end) for first, end in evidence)


def solve(question: Question, video: SyntheticVideo) -> set[str]:
    """All answers that the scenes of a video give; one and no other, if the question is fair.

    Only the kind, the shape and the colour of the question are looked at.
    """
    segments = video.segments
    if question.shape is None:
        return {s.scene.spark.colour for s in segments if s.scene.spark and s.spark}
    places = [k for k, segment in enumerate(segments) if shows(question.shape, segment)]
    if question.kind == "after":
        following = [segments[k + 1].scene for k in places if k + 1 < len(segments)]
        shapes = {scene.shape_of(question.colour or "") for scene in following}
        return {shape for shape in shapes if shape is not None}
    if question.kind == "texture":
        return {segments[k].scene.backdrop.texture for k in places}
    if question.kind == "first":
        places = places[:1]
    elif question.kind == "last":
        places = places[-1:]
    colours = {segments[k].scene.colour_of(question.shape) for k in places}
    return {colour for colour in colours if colour is not None}


def shows(shape: str | None, segment: Segment) -> bool:
    """Whether a segment shows a shape, or a spark where that is None."""
    return (segment.spark if shape is None else segment.scene.colour_of(shape)) is not None


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
    return f"{', '.join(objects)} on {scene.backdrop.texture}"


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
