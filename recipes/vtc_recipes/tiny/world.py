"""Where dialogues about synthetic videos come from: a bank of scenes, and who chooses keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vtc
from vtc.plugins import registry
from vtc_recipes.synthetic import Example, SyntheticVideo, make_example
from vtc_recipes.tiny.asking import choose_turns, describe
from vtc_recipes.tiny.dual_encoder import embed_texts
from vtc_recipes.tiny.features import Features, rows_of
from vtc_recipes.tiny.needles import bury
from vtc_recipes.tiny.sequences import Dialogue


@dataclass(frozen=True)
class Format:
    """What a video is like, and how it is read.

    Attributes:
        frames: How many.
        scenes: How many follow one another in it.
        keyframes: How many at most.
        selector: ``dks``, or ``random`` for any frames.
        spread: By how many positions, at most, the video is drawn apart.
        alone: Whether the video has one question, for which it is merged, and no others.
        buried: Whether its questions are about a few scenes of many, as `needles.bury` makes it.
        crowd: As how many frames, at most, each counts that does not matter.
    """

    frames: int
    scenes: int
    keyframes: int
    selector: str = "dks"
    spread: int = 0
    alone: bool = False
    buried: bool = False
    crowd: int = 1


class World:
    """The first scenes of a split, as the towers see them.

    Args:
        split: Of the scenes.
        scenes: How many.
        features: Of these scenes.
        embeddings: As `features.embeddings_of` gives them.
        dual_encoder: What made them, for the queries, and its tokenizer.
    """

    def __init__(
        self,
        split: str,
        scenes: int,
        features: Features,
        embeddings: Tensor,
        dual_encoder: Any,
        tokenizer: Any,
    ) -> None:
        self.split, self.scenes, self.features = split, scenes, features
        self._embeddings = embeddings
        self._embedded = cache(lambda text: _embed(dual_encoder, tokenizer, text))

    def caption(self, rng: np.random.Generator, form: Format) -> Dialogue:
        """A random video and the description of all its scenes, each seen in a keyframe."""
        example = self._example(rng, form, "colour")
        video, query = example.video, example.question.text
        keyframes = torch.tensor([(first + end) // 2 for first, end in video.ranges()])
        turns = [("", describe(video))]
        return Dialogue(rows_of(video), keyframes, query, self._embedded(query), turns)

    def questions(self, rng: np.random.Generator, form: Format, kind: str) -> Dialogue:
        """A random video with a question of a kind and, unless it shall be alone, many others."""
        needles: list[int] = []
        if form.buried:
            example, needles = bury(rng, form.frames, form.scenes, kind, self.split, self.scenes)
        else:
            example = self._example(rng, form, kind)
        own, rows = example.question, rows_of(example.video)
        chosen = self.select(rng, rows, own.text, form).tolist()
        keyframes = torch.tensor(sorted({*chosen, *_some_frames(rng, example.video, needles)}))
        turns = (
            [(own.text, own.answer)]
            if form.alone
            else choose_turns(rng, example, keyframes.tolist())
        )
        gaps = draw_gaps(rng, example, form.spread) if form.spread else None
        crowd = draw_crowd(rng, example, form.crowd) if form.crowd > 1 else None
        embedding = self._embedded(own.text)
        return Dialogue(rows, keyframes, own.text, embedding, turns, gaps, crowd)

    def _example(self, rng: np.random.Generator, form: Format, kind: str) -> Example:
        return make_example(
            int(rng.integers(2**31)),
            form.frames,
            kind=kind,
            split=self.split,
            segments=form.scenes,
            scenes=self.scenes,
        )

    def select(self, rng: np.random.Generator, rows: Tensor, query: str, form: Format) -> Tensor:
        """The keyframes ``[K]`` of a video, given its rows in the bank ``[N]`` and a query."""
        count = min(form.keyframes, len(rows))
        if form.selector == "random":
            return torch.from_numpy(np.sort(rng.choice(len(rows), count, replace=False)))
        selector = _selector(form.selector, count)
        keyframes: Tensor = selector.select(self._embeddings[rows], self._embedded(query)).keyframes
        return keyframes


@cache
def _selector(name: str, keyframes: int) -> Any:
    return registry.build_part("selector", vtc.selector(name, keyframes=keyframes))


@torch.no_grad()
def _embed(dual_encoder: Any, tokenizer: Any, text: str) -> Tensor:
    return embed_texts(dual_encoder, tokenizer, [text])[0].cpu()


def _some_frames(
    rng: np.random.Generator, video: SyntheticVideo, needles: Sequence[int]
) -> list[int]:
    """A frame of each needle and of every other scene after one, so that all can be asked about."""
    ranges = video.ranges()
    after = {place + 1 for place in needles if place + 1 < len(ranges) and rng.random() < 0.5}
    return [int(rng.integers(*ranges[place])) for place in sorted({*needles} | after)]


def draw_gaps(rng: np.random.Generator, example: Example, spread: int) -> Tensor:
    """Positions left out before one or two of the scenes, as a long video's other scenes would.

    As often tens as thousands, and never between two scenes that the question is about if they
    follow one another: in a long video nothing comes between them either.
    """
    video, evidence = example.video, example.question.evidence
    gaps = torch.zeros(len(video), dtype=torch.int64)
    inside = {second for (_, end), (second, _) in pairwise(evidence) if end == second}
    places = [first for first, _ in video.ranges() if first not in inside]
    chosen = rng.choice(places, min(len(places), int(rng.integers(1, 3))), replace=False)
    for place in chosen.tolist():
        gaps[place] = int(np.exp(rng.uniform(0, np.log(spread))))
    return gaps


def draw_crowd(rng: np.random.Generator, example: Example, most: int) -> Tensor:
    """As how many frames each counts: one where the question is about it, up to ``most`` elsewhere.

    The other questions about a video are about its keyframes, which are never crowded.
    """
    crowd = torch.full((len(example.video),), float(np.exp(rng.uniform(0, np.log(most)))))
    for first, end in example.question.evidence:
        crowd[first:end] = 1
    return crowd
