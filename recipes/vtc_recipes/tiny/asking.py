"""Several questions about one video, so that a video's tokens are read once for all of them."""

from __future__ import annotations

import numpy as np

from vtc_recipes.synthetic import Example, Question, SyntheticVideo
from vtc_recipes.synthetic.scenes import Scene

KINDS = ("colour", "first", "last", "after")
"""The kinds of questions that the tiny models learn: all but the spark, which is too short."""


def fair_questions(video: SyntheticVideo) -> dict[str, list[Question]]:
    """All questions of each kind that have one right answer, as `make_example` would ask them."""
    scenes, ranges = [segment.scene for segment in video.segments], video.ranges()
    places: dict[str, list[int]] = {}
    for place, scene in enumerate(scenes):
        for thing in scene.objects:
            places.setdefault(thing.shape, []).append(place)
    fair: dict[str, list[Question]] = {kind: [] for kind in KINDS}
    for shape, found in places.items():
        evidence = tuple(ranges[place] for place in found)
        if len(found) == 1:
            answer = _colour(scenes[found[0]], shape)
            fair["colour"].append(Question("colour", answer, evidence, shape))
            fair["after"].extend(_after(scenes, ranges, shape, found[0]))
        else:
            for kind, place in (("first", found[0]), ("last", found[-1])):
                fair[kind].append(Question(kind, _colour(scenes[place], shape), evidence, shape))
    return fair


def choose_questions(rng: np.random.Generator, example: Example, each: int) -> list[Question]:
    """The example's own question, then up to ``each`` others of every kind, in random order."""
    chosen = []
    for questions in fair_questions(example.video).values():
        others = [question for question in questions if question.text != example.question.text]
        chosen += [others[number] for number in rng.permutation(len(others))[:each].tolist()]
    order = rng.permutation(len(chosen)).tolist()
    return [example.question, *(chosen[number] for number in order)]


def describe(video: SyntheticVideo) -> str:
    """What the scenes of a video show, in order; objects row by row, so that one text is right."""
    return ", ".join(_caption(segment.scene) for segment in video.segments)


def _caption(scene: Scene) -> str:
    things = sorted(scene.objects, key=lambda thing: thing.quarter)
    listed = " ".join(f"{thing.colour} {thing.shape}" for thing in things)
    return f"{listed} on {scene.backdrop.texture}"


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
