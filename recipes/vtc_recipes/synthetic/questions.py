"""Questions about synthetic videos, each with one right answer and the frames that show it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from vtc_recipes.synthetic.drawing import COLOURS, SHAPES, TEXTURES
from vtc_recipes.synthetic.scenes import Scene
from vtc_recipes.synthetic.videos import Segment, SyntheticVideo

KINDS = {"colour": 1, "first": 2, "last": 2, "after": 2, "spark": 1, "texture": 1}
"""The kinds of questions, with the number of scenes that each is about."""
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
        evidence: Ranges (first, end) of frames. The answer needs a frame of **every** range: of the
            one scene with the shape (``colour``, ``texture``), of both scenes with it (``first``,
            ``last``), of the scene with the shape and the next scene (``after``), or of the frames
            with the spark (``spark``).
        shape: The shape in the question; None for the spark.
        colour: The colour in the question, for ``after`` only.
    """

    kind: str
    answer: str
    evidence: tuple[tuple[int, int], ...]
    shape: str | None = None
    colour: str | None = None

    @property
    def text(self) -> str:
        """Return the question in words."""
        return _TEXTS[self.kind].format(shape=self.shape, colour=self.colour)

    @property
    def choices(self) -> tuple[str, ...]:
        """Return all possible answers; without the video, all are equally likely."""
        return answers_to(self.kind, self.shape)

    @property
    def chance(self) -> float:
        """Return the probability that a guess is right."""
        return 1 / len(self.choices)

    def is_unrelated_to(self, scene: Scene) -> bool:
        """Return whether adding a scene to the video leaves the answer unchanged.

        A scene between two scenes of the evidence may still change it.
        """
        return scene.spark is None if self.shape is None else scene.colour_of(self.shape) is None


@dataclass(frozen=True)
class Example:
    """A video and a question about it."""

    video: SyntheticVideo
    question: Question


def answers_to(kind: str, shape: str | None) -> tuple[str, ...]:
    """Return all possible answers to a kind of question about a shape."""
    if kind == "after":  # the shape itself would then be in two scenes
        return tuple(other for other in SHAPES if other != shape)
    return TEXTURES if kind == "texture" else tuple(COLOURS)


def covers(frames: Sequence[int], evidence: Sequence[Sequence[int]]) -> bool:
    """Return whether ascending frame numbers hit every range (first, end).

    >>> covers([3, 10], [(0, 4), (10, 12)]), covers([4, 9], [(0, 4), (10, 12)])
    (True, False)
    """
    return all(bisect_left(frames, first) < bisect_left(frames, end) for first, end in evidence)


def solve(question: Question, video: SyntheticVideo) -> set[str]:
    """Return all answers supported by the scenes of a video; exactly one if the question is fair.

    Uses only the kind, the shape and the colour of the question.
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
    """Return whether a segment shows a shape, or a spark if the shape is None."""
    return (segment.spark if shape is None else segment.scene.colour_of(shape)) is not None


def caption(scene: Scene, places: bool = False) -> str:
    """Describe a scene: ``"red star, blue ring on stripes"``.

    Args:
        scene: The scene; its spark is not described.
        places: Add the place of each object: ``"red star top left, ..."``.
    """
    objects = [
        f"{thing.colour} {thing.shape}" + (f" {_PLACES[thing.quarter]}" if places else "")
        for thing in scene.objects
    ]
    return f"{', '.join(objects)} on {scene.backdrop.texture}"


def vocabulary() -> tuple[str, ...]:
    """Return all words and signs of questions, answers and captions, in alphabetical order.

    Tokenizers append the words of stories (`stories.story_vocabulary`), so that these keep their
    ids.
    """
    texts = [text.format(shape="", colour="") for text in _TEXTS.values()]
    texts += [*SHAPES, *COLOURS, *TEXTURES, *_PLACES, "on", ","]
    return tuple(sorted({word for text in texts for word in words(text)}))


def words(text: str) -> list[str]:
    """Split a text into words and signs, in lower case.

    >>> words("What colour is the star?")
    ['what', 'colour', 'is', 'the', 'star', '?']
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())
