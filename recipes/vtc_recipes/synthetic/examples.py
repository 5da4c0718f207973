"""Random videos, each with a question about it.

The answer is drawn first, uniformly, then scenes that make it true, then scenes that do not change
it. `solve` derives the answer from all scenes as a check; an example with a second answer is never
returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vtc.interfaces.part import require
from vtc_recipes.synthetic.contents import SPLITS, Spark
from vtc_recipes.synthetic.drawing import COLOURS, SHAPES
from vtc_recipes.synthetic.questions import KINDS, Example, Question, answers_to, shows, solve
from vtc_recipes.synthetic.scenes import SCENES, Scene, check_split, find_scene
from vtc_recipes.synthetic.stories import STORIES, make_story
from vtc_recipes.synthetic.videos import Segment, SyntheticVideo, random_lengths, random_segment


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
    """Draw a video with a question about it.

    Args:
        seed: The same seed and options give the same example.
        frames: Length of the video in frames.
        kind: One of ``KINDS`` or of ``STORIES``; drawn from ``KINDS`` by default.
        split: Split of all scenes.
        size: Frame size in pixels, see `Scene`.
        segments: Number of scenes; by default one per eight frames, and at least as many as the
            question is about.
        scenes: Draw from the first ``scenes`` scenes of the split, so that features can be cached.

    Raises:
        ValueError: The kind is unknown, or there are too few frames, segments or scenes for it.

    >>> question = make_example(5, frames=16, kind="after").question
    >>> question.text, question.answer, question.evidence
    ('Which shape is cyan in the scene after the cross?', 'circle', ((0, 5), (5, 16)))
    """
    if kind in STORIES:
        return make_story(
            seed, frames, kind=kind, split=split, size=size, segments=segments, scenes=scenes
        )
    rng = np.random.default_rng((SPLITS.index(check_split(split)), seed, 1))
    if kind is None:
        kind = _pick(rng, tuple(KINDS))
    require(kind in KINDS, "kind", kind, f"one of {', '.join(map(repr, [*KINDS, *STORIES]))}")
    count = max(KINDS[kind], frames // 8) if segments is None else segments
    least = KINDS[kind]
    require(count >= least, "segments", count, f"an integer >= {least} for the kind {kind!r}")
    lengths = random_lengths(rng, frames, count)
    plan = _plan(rng, kind, count)
    drawn = []
    for condition, length in zip(plan.scenes, lengths, strict=True):
        scene = find_scene(rng, split, size, condition, scenes)
        if kind == "spark" and scene.spark is not None:
            drawn.append(_around(rng, scene, scene.spark, length))
        else:
            drawn.append(random_segment(rng, scene, length))
    video = SyntheticVideo(drawn)
    evidence = tuple(_evidence(video, place, kind) for place in plan.places)
    question = Question(kind, plan.answer, evidence, plan.shape, plan.colour)
    if (answers := solve(question, video)) != {plan.answer}:
        raise RuntimeError(
            f"seed {seed}: {question.text!r} has the answers {sorted(answers)}, not only "
            f"{plan.answer!r}; please report this"
        )
    return Example(video, question)


def fair_questions(video: SyntheticVideo, kind: str) -> list[Question]:
    """Return all questions of a kind about a video that have one right answer, by shape.

    Unlike in `make_example`, the two colours of ``first`` and ``last`` may be the same.

    >>> video = make_example(3, frames=8).video
    >>> [question.text for question in fair_questions(video, "texture")]
    ['What is behind the circle?', 'What is behind the diamond?']
    """
    segments, questions = video.segments, []
    for shape in (None,) if kind == "spark" else SHAPES:
        places = [k for k, segment in enumerate(segments) if shows(shape, segment)]
        if len(places) != (1 if kind == "after" else KINDS[kind]):
            continue
        if kind == "after":
            places = [k for k in (places[0], places[0] + 1) if k < len(segments)]
        evidence = tuple(_evidence(video, place, kind) for place in places)
        for colour in tuple(COLOURS) if kind == "after" else (None,):
            question = Question(kind, "", evidence, shape, colour)
            answers = solve(question, video)
            if len(answers) == 1:
                questions.append(replace(question, answer=answers.pop()))
    return questions


@dataclass(frozen=True)
class _Plan:
    """The conditions on the scenes of a video, for a question about the scenes at ``places``."""

    answer: str
    shape: str | None
    colour: str | None
    places: tuple[int, ...]
    scenes: list[Callable[[Scene], bool]]


def _plan(rng: np.random.Generator, kind: str, count: int) -> _Plan:
    if kind == "spark":
        return _spark_plan(rng, count)
    shape = _pick(rng, SHAPES)
    answer = _pick(rng, answers_to(kind, shape))
    scenes: list[Callable[[Scene], bool]] = [lambda scene: scene.colour_of(shape) is None] * count
    colour = None
    if kind == "colour":
        places = [int(rng.integers(count))]
        scenes[places[0]] = lambda scene: scene.colour_of(shape) == answer
    elif kind == "texture":
        places = [int(rng.integers(count))]
        scenes[places[0]] = lambda scene: (
            scene.colour_of(shape) is not None and scene.backdrop.texture == answer
        )
    elif kind == "after":
        colour, first = _pick(rng, tuple(COLOURS)), int(rng.integers(count - 1))
        places = [first, first + 1]
        scenes[first] = lambda scene: scene.colour_of(shape) is not None
        scenes[first + 1] = lambda scene: (
            scene.colour_of(answer) == colour and scene.colour_of(shape) is None
        )
    else:
        other = _pick(rng, [name for name in COLOURS if name != answer])
        places = sorted(rng.choice(count, 2, replace=False).tolist())
        right, distractor = places if kind == "first" else places[::-1]
        scenes[right] = lambda scene: scene.colour_of(shape) == answer
        scenes[distractor] = lambda scene: scene.colour_of(shape) == other
    return _Plan(answer, shape, colour, tuple(places), scenes)


def _spark_plan(rng: np.random.Generator, count: int) -> _Plan:
    answer, place = _pick(rng, tuple(COLOURS)), int(rng.integers(count))
    scenes: list[Callable[[Scene], bool]] = [lambda scene: scene.spark is None] * count
    scenes[place] = lambda scene: scene.spark is not None and scene.spark.colour == answer
    return _Plan(answer, None, None, (place,), scenes)


def _around(rng: np.random.Generator, scene: Scene, spark: Spark, length: int) -> Segment:
    """Draw a segment that shows a scene's spark, completely if ``length`` allows."""
    earliest = max(0, spark.start + spark.length - length)
    return Segment(scene, int(rng.integers(min(earliest, spark.start), spark.start + 1)), length)


def _evidence(video: SyntheticVideo, place: int, kind: str) -> tuple[int, int]:
    first, end = video.ranges()[place]
    spark = video.segments[place].spark
    return (first + spark[0], first + spark[1]) if kind == "spark" and spark else (first, end)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
