"""Draw several questions about one video, which share its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from vtc_recipes.synthetic import Example, Question, SyntheticVideo, covers
from vtc_recipes.synthetic.scenes import Scene

T = TypeVar("T")

KINDS = ("colour", "first", "last", "after")
"""The kinds of questions that the tiny models are trained on.

The spark is too short for them, and the texture is reserved for fine-tuning examples."""
_MAX_TURNS = 4
"""Maximum number of additional questions per kind, and of requests, about a video."""


def fair_questions(video: SyntheticVideo) -> dict[str, list[Question]]:
    """Return all questions of each kind that have one right answer; see `make_example`."""
    scenes, ranges = [segment.scene for segment in video.segments], video.ranges()
    fair: dict[str, list[Question]] = {kind: [] for kind in KINDS}
    for shape, places in _places(scenes).items():
        evidence = tuple(ranges[place] for place in places)
        if len(places) == 1:
            answer = _colour(scenes[places[0]], shape)
            fair["colour"].append(Question("colour", answer, evidence, shape))
            fair["after"].extend(_after(scenes, ranges, shape, places[0]))
        else:
            for kind, place in (("first", places[0]), ("last", places[-1])):
                fair[kind].append(Question(kind, _colour(scenes[place], shape), evidence, shape))
    return fair


def choose_turns(
    rng: np.random.Generator, example: Example, keyframes: Sequence[int]
) -> list[tuple[str, str]]:
    """Draw questions about a video with their answers, starting with the example's own.

    The others are fair questions of every kind and `scene_requests`. Their evidence is covered by
    the keyframes, because non-keyframes are merged for the example's own question.
    """
    video, own = example.video, example.question
    others = []
    for questions in fair_questions(video).values():
        turns = [
            (question.text, question.answer)
            for question in questions
            if question.text != own.text and covers(keyframes, question.evidence)
        ]
        others += _some(rng, turns, _MAX_TURNS)
    others += _some(rng, scene_requests(video, keyframes), _MAX_TURNS)
    return [(own.text, own.answer), *_some(rng, others, len(others))]


def scene_requests(video: SyntheticVideo, keyframes: Sequence[int]) -> list[tuple[str, str]]:
    """Return requests to describe a scene, identified by a shape in it or in the previous scene.

    They are used only in training: with their long answers the model learns to find a scene and the
    next one much sooner than with one-word answers.
    """
    scenes, ranges = [segment.scene for segment in video.segments], video.ranges()
    seen = [covers(keyframes, [where]) for where in ranges]
    requests = []
    for shape, places in _places(scenes).items():
        place = places[0]
        if len(places) > 1 or not seen[place]:
            continue
        requests.append((f"What is in the scene the {shape} is in?", _caption(scenes[place])))
        if place + 1 < len(scenes) and seen[place + 1]:
            answer = _caption(scenes[place + 1])
            requests.append((f"What is in the scene after the {shape}?", answer))
    return requests


def describe(video: SyntheticVideo) -> str:
    """Describe the scenes of a video in order, with objects row by row, so the text is unique."""
    return ", ".join(_caption(segment.scene) for segment in video.segments)


def _caption(scene: Scene) -> str:
    things = sorted(scene.objects, key=lambda thing: thing.quarter)
    listed = " ".join(f"{thing.colour} {thing.shape}" for thing in things)
    return f"{listed} on {scene.backdrop.texture}"


def _places(scenes: Sequence[Scene]) -> dict[str, list[int]]:
    """Return the indices of the scenes that show each shape."""
    places: dict[str, list[int]] = {}
    for place, scene in enumerate(scenes):
        for thing in scene.objects:
            places.setdefault(thing.shape, []).append(place)
    return places


def _some(rng: np.random.Generator, items: Sequence[T], most: int) -> list[T]:
    """Draw up to ``most`` items in random order."""
    return [items[number] for number in rng.permutation(len(items))[:most].tolist()]


def _after(
    scenes: list[Scene], ranges: list[tuple[int, int]], shape: str, place: int
) -> list[Question]:
    if place + 1 == len(scenes):
        return []
    evidence = (ranges[place], ranges[place + 1])
    return [
        Question("after", thing.shape, evidence, shape, thing.colour)
        for thing in scenes[place + 1].objects
    ]


def _colour(scene: Scene, shape: str) -> str:
    colour = scene.colour_of(shape)
    if colour is None:
        raise ValueError(f"{scene!r} shows no {shape}")
    return colour
