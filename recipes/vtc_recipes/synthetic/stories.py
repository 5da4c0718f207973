"""Videos with several events, and questions that need more scenes than the keyframes show.

An *event* is a scene that shows an object named in the question; no other scene shows one. A
question needs all its E events, but K keyframes show at most a share ``min(1, K / E)`` of them
(`held_share`); the rest must come from the non-keyframes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vtc.interfaces.part import require
from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.drawing import COLOURS, SHAPES
from vtc_recipes.synthetic.questions import Example, Question, shows, vocabulary, words
from vtc_recipes.synthetic.scenes import SCENES as ALL_SCENES
from vtc_recipes.synthetic.scenes import Scene, check_split, find_scene
from vtc_recipes.synthetic.videos import (
    SyntheticVideo,
    random_lengths,
    random_segment,
)

STORIES = {"order": 4, "longest": 4, "count": 6, "between": 5, "change": 4}
"""The kinds of stories, with their maximum number of events."""
NUMBERS = ("three", "four", "five", "six")
"""Answers to ``count``."""
ORDINALS = ("second", "third")
_LISTED = "{0}, {1}, {2} or {3}?"
_TEXTS = {
    "order": "Which comes {ordinal}: " + _LISTED,
    "longest": "Which stays longest: " + _LISTED,
    "count": "How many scenes show the {0}?",
    "between": "What colour is the {0} between the {1} and the {2}?",
    "change": "What colour is the {0} after it is {colour}?",
}
LENGTHS = ("one", "two", "three", "four", "five", "six")
"""Lengths of scenes in `tell`, in sixteenths of the video; longer scenes are six."""
MARK = "."
"""Separates the events from the answer in `tell`."""
_LONGER = 1.5
"""The longest event lasts at least this many times as long as any other."""


@dataclass(frozen=True)
class StoryQuestion(Question):
    """A question about several events, with one right answer.

    Attributes:
        names: The shapes that the question names, in its order.
        ordinal: ``second`` or ``third``, for ``order`` only.
    """

    names: tuple[str, ...] = ()
    ordinal: str | None = None

    @property
    def text(self) -> str:
        """The question in words."""
        return _TEXTS[self.kind].format(*self.names, ordinal=self.ordinal, colour=self.colour)

    @property
    def choices(self) -> tuple[str, ...]:
        """All possible answers, equally likely without the video."""
        if self.kind in ("order", "longest"):
            return self.names
        if self.kind == "count":
            return NUMBERS
        return tuple(colour for colour in COLOURS if colour != self.colour)

    def is_unrelated_to(self, scene: Scene) -> bool:
        """Return whether a scene shows no object that the question names."""
        return all(scene.colour_of(name) is None for name in self.names)


def story_vocabulary() -> tuple[str, ...]:
    """Return the words and signs that only stories use, in alphabetical order."""
    texts = [*_TEXTS.values(), MARK]
    plain = [text.format("", "", "", "", ordinal="", colour="") for text in texts]
    all_words = {word for text in (*plain, *NUMBERS, *LENGTHS, *ORDINALS) for word in words(text)}
    return tuple(sorted(all_words - {*vocabulary()}))


def held_share(question: Question, keyframes: int) -> float:
    """Return the maximum share of a question's events that K keyframes can show.

    >>> held_share(make_story(0, 64, kind="order").question, keyframes=2)
    0.5
    """
    return min(1.0, keyframes / len(question.evidence))


def make_story(
    seed: int,
    frames: int,
    *,
    kind: str,
    split: str = "train",
    size: int | tuple[int, int] = 48,
    segments: int | None = None,
    scenes: int = ALL_SCENES,
) -> Example:
    """Draw a video with several events and a question about them.

    The answer is drawn first, uniformly and independently of the question's text, so a guess
    without the video is right in 1 of ``len(choices)`` cases.

    Args:
        seed: The same seed and options give the same example.
        frames: Length of the video in frames.
        kind: One of ``STORIES``: ``order`` (which of four events comes second or third),
            ``longest`` (which of four lasts longest), ``count`` (how many scenes show a shape),
            ``between`` (an object seen three times, once between two named events) and ``change``
            (an object's next colour, which changes while other scenes are shown).
        split: Split of all scenes.
        size: Frame size in pixels; see `Scene`.
        segments: Number of scenes; by default one per eight frames, at least two more than events.
        scenes: Draw from the first ``scenes`` scenes of the split.

    Raises:
        ValueError: The kind is unknown, or there are too few frames, segments or scenes.

    >>> question = make_story(5, frames=64, kind="change").question
    >>> question.text, question.answer, len(question.evidence)
    ('What colour is the star after it is red?', 'cyan', 4)
    """
    require(kind in STORIES, "kind", kind, f"one of {', '.join(map(repr, STORIES))}")
    least = STORIES[kind] + 2
    count = max(least, frames // 8) if segments is None else segments
    require(count >= least, "segments", count, f"an integer >= {least} for the kind {kind!r}")
    require(frames >= 2 * count, "frames", frames, f"at least {2 * count}, two for each scene")
    rng = np.random.default_rng((SPLITS.index(check_split(split)), seed, 5))
    question, conditions = _PLANS[kind](rng)
    places = np.sort(rng.choice(count, len(conditions), replace=False)).tolist()
    all_conditions: list[Condition] = [question.is_unrelated_to] * count
    for place, condition in zip(places, conditions, strict=True):
        all_conditions[place] = condition
    drawn = [find_scene(rng, split, size, condition, scenes) for condition in all_conditions]
    lengths = random_lengths(rng, frames, count)
    if kind == "longest":
        longest = next(p for p in places if drawn[p].colour_of(question.answer) is not None)
        lengths = _one_longest(rng, frames, count, longest, places)
    video = SyntheticVideo([random_segment(rng, *p) for p in zip(drawn, lengths, strict=True)])
    evidence = tuple(video.ranges()[place] for place in places)
    question = replace(question, evidence=evidence)
    if (answers := solve_story(question, video)) != {question.answer}:
        raise RuntimeError(
            f"seed {seed}: {question.text!r} has the answers {sorted(answers)}, not only "
            f"{question.answer!r}; please report this"
        )
    return Example(video, question)


def solve_story(question: StoryQuestion, video: SyntheticVideo) -> set[str]:
    """Return all answers supported by the scenes of a video; exactly one if the question is fair.

    Uses only the kind, the names, the ordinal and the colour of the question.
    """
    places = [[k for k, s in enumerate(video.segments) if shows(n, s)] for n in question.names]
    if question.kind == "order":
        if any(len(of_name) != 1 for of_name in places):
            return set()
        ordered = sorted(question.names, key=lambda name: places[question.names.index(name)][0])
        return {ordered[1 + ORDINALS.index(question.ordinal or "")]}
    if question.kind == "longest":
        lasts = [sum(video.segments[k].length for k in of_name) for of_name in places]
        most, second = sorted(lasts, reverse=True)[:2]
        return {question.names[lasts.index(most)]} if most >= _LONGER * second else set()
    events = [(k, video.segments[k].scene.colour_of(question.names[0])) for k in places[0]]
    if question.kind == "count":
        return {NUMBERS[len(events) - 3]} if 3 <= len(events) <= 6 else set()
    if question.kind == "between":
        if any(len(of_name) != 1 for of_name in places[1:]):
            return set()
        first, end = sorted(of_name[0] for of_name in places[1:])
        return {colour for place, colour in events if first < place < end and colour}
    colours = [colour for _, colour in events]
    following = {b for a, b in zip(colours, colours[1:], strict=False) if a == question.colour}
    return {colour for colour in following if colour is not None}


def tell(question: StoryQuestion, video: SyntheticVideo) -> str:
    """Return an answer that lists the events first, in order: ``red blue cyan. blue``.

    The tiny models are trained on such answers. An event is named by its colour, or by its shape if
    the question names several; ``longest`` adds its length, one of ``LENGTHS``: ``star two ring
    five moon one cross two. ring``. `final_answer` extracts the answer.

    >>> example = make_story(5, frames=64, kind="change")
    >>> tell(example.question, example.video)
    'green red cyan purple. cyan'
    """
    first, *others = question.names
    events = []
    for segment in video.segments:
        colour = segment.scene.colour_of(first)
        shapes = [name for name in (first, *others) if segment.scene.colour_of(name) is not None]
        if shapes:
            by_colour = colour is not None and question.kind not in ("order", "longest")
            events.append(colour if by_colour and colour else shapes[0])
            if question.kind == "longest":
                sixteenths = round(16 * segment.length / len(video))
                events.append(LENGTHS[min(max(sixteenths, 1), len(LENGTHS)) - 1])
    return f"{' '.join(events)}{MARK} {question.answer}"


def final_answer(text: str) -> str:
    """Return the answer at the end of a text by `tell`, or a plain answer, in lower case.

    >>> final_answer("red blue cyan. blue"), final_answer("Blue.")
    ('blue', 'blue')
    """
    return text.strip().removesuffix(MARK).rpartition(MARK)[2].strip().lower()


Condition = Callable[[Scene], bool]
Plan = tuple[StoryQuestion, list[Condition]]


def _plan_named(rng: np.random.Generator, kind: str) -> Plan:
    """Draw four shapes that appear once each, and the one that is the answer."""
    names = _some(rng, SHAPES, STORIES[kind])
    answer = names[int(rng.integers(len(names)))]
    events = _some(rng, names, len(names))
    ordinal = None
    if kind == "order":
        place = int(rng.integers(len(ORDINALS)))
        ordinal = ORDINALS[place]
        events.remove(answer)
        events.insert(1 + place, answer)
    question = StoryQuestion(kind, answer, (), names=tuple(names), ordinal=ordinal)
    return question, [_only(names, name) for name in events]


def _plan_chain(rng: np.random.Generator, kind: str) -> Plan:
    """Draw a shape that appears several times, each time in another colour."""
    shape, colours = SHAPES[int(rng.integers(len(SHAPES)))], _some(rng, tuple(COLOURS), 6)
    if kind == "count":
        place = int(rng.integers(len(NUMBERS)))
        question = StoryQuestion(kind, NUMBERS[place], (), shape, names=(shape,))
        return question, [_only([shape], shape, c) for c in colours[: 3 + place]]
    chain = colours[: STORIES[kind]]
    place = int(rng.integers(len(chain) - 1))
    question = StoryQuestion(kind, chain[place + 1], (), shape, chain[place], (shape,))
    return question, [_only([shape], shape, colour) for colour in chain]


def _plan_between(rng: np.random.Generator, kind: str) -> Plan:
    """Draw a shape that appears three times, exactly once between two other shapes."""
    names = _some(rng, SHAPES, 3)
    shape, *edges = names
    answer, *others = _some(rng, tuple(COLOURS), 3)
    inside = [_only(names, edges[0]), _only(names, shape, answer), _only(names, edges[1])]
    outside = [_only(names, shape, colour) for colour in others]
    before = int(rng.integers(3))
    named = (shape, *_some(rng, edges, 2))
    question = StoryQuestion(kind, answer, (), shape, names=named)
    return question, [*outside[:before], *inside, *outside[before:]]


_PLANS: dict[str, Callable[[np.random.Generator], Plan]] = {
    "order": lambda rng: _plan_named(rng, "order"),
    "longest": lambda rng: _plan_named(rng, "longest"),
    "count": lambda rng: _plan_chain(rng, "count"),
    "between": lambda rng: _plan_between(rng, "between"),
    "change": lambda rng: _plan_chain(rng, "change"),
}


def _only(names: Sequence[str], name: str, colour: str | None = None) -> Condition:
    """Return the condition that a scene shows ``name`` in ``colour`` and no other of the names."""

    def condition(scene: Scene) -> bool:
        seen = scene.colour_of(name)
        if seen is None or (colour is not None and seen != colour):
            return False
        return all(other == name or scene.colour_of(other) is None for other in names)

    return condition


def _one_longest(
    rng: np.random.Generator, frames: int, count: int, longest: int, places: Sequence[int]
) -> list[int]:
    """Draw lengths such that one event is much longer than the other events."""
    while True:
        most = int(rng.integers(max(3, frames // 5), frames // 3 + 1))
        lengths = random_lengths(rng, frames - most, count - 1)
        lengths.insert(longest, most)
        if all(p == longest or _LONGER * lengths[p] <= most for p in places):
            return lengths


def _some(rng: np.random.Generator, items: Sequence[str], count: int) -> list[str]:
    return [items[k] for k in rng.permutation(len(items))[:count].tolist()]
