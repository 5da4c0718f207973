"""Draw dialogues about synthetic videos from a bank of scenes with features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vtc
from vtc.interfaces.frame_selector import Selection
from vtc.interfaces.part import require
from vtc.interfaces.token_budget import TokenBudget
from vtc.pipeline.budget import share_tokens
from vtc.plugins import registry
from vtc_recipes.synthetic import Example, SyntheticVideo, make_example
from vtc_recipes.tiny.asking import choose_turns, describe
from vtc_recipes.tiny.dual_encoder import embed_texts
from vtc_recipes.tiny.features import Features, rows_of
from vtc_recipes.tiny.needles import RARE, bury
from vtc_recipes.tiny.sequences import Dialogue
from vtc_recipes.tiny.visual import POOLED


@dataclass(frozen=True)
class Format:
    """The format of a video and of its keyframes.

    Attributes:
        frames: Number of frames.
        scenes: Number of scenes.
        keyframes: Maximum number of keyframes.
        selector: Name of a selector, or ``random``.
        spread: Maximum number of positions that gaps add to the video.
        alone: Ask only the question for which frames are merged.
        buried: Ask about a few scenes of many; see `needles.bury`.
        rare: Number of shapes that a buried question may be about.
        crowd: Maximum number of frames that an irrelevant frame counts for.
        kept: Number of frames that the language model sees of a longer video; see `thin`. 0 for
            all of them.
        budget: The budget that sets the tokens of the frames; None for one token each.
    """

    frames: int
    scenes: int
    keyframes: int
    selector: str = "dks"
    spread: int = 0
    alone: bool = False
    buried: bool = False
    rare: int = RARE
    crowd: int = 1
    kept: int = 0
    budget: TokenBudget | None = None


_BESIDE = 4
"""Number of frames that `thin` keeps on each side of a keyframe."""


class World:
    """The first scenes of a split with their features.

    Args:
        split: Split of the scenes.
        scenes: Number of scenes.
        features: Features of their frames.
        embeddings: ``[rows, d]`` float32, see `features.embeddings_of`.
        dual_encoder: The CLIP that computed the embeddings; it embeds queries.
        tokenizer: Its tokenizer.
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
        self.embed = cache(lambda text: _embed(dual_encoder, tokenizer, text))

    def caption(self, rng: np.random.Generator, form: Format) -> Dialogue:
        """Draw a video with a keyframe in each scene, and the description of all its scenes."""
        example = self._example(rng, form, "colour")
        video, query = example.video, example.question.text
        keyframes = torch.tensor([(first + end) // 2 for first, end in video.ranges()])
        turns = [("", describe(video))]
        return Dialogue(rows_of(video), keyframes, query, self.embed(query), turns)

    def questions(self, rng: np.random.Generator, form: Format, kind: str) -> Dialogue:
        """Draw a video with a question of a kind and, unless ``form.alone``, many others."""
        needles: list[int] = []
        if form.buried:
            size = (form.frames, form.scenes)
            example, needles = bury(rng, *size, kind, self.split, self.scenes, form.rare)
        else:
            example = self._example(rng, form, kind)
        own, rows = example.question, rows_of(example.video)
        selection = self.select(rng, rows, own.text, form)
        added = [] if form.alone else _some_frames(rng, example.video, needles)
        keyframes = torch.tensor(sorted({*selection.keyframes.tolist(), *added}))
        tokens = None
        if form.budget is not None:
            selection = replace(selection, keyframes=keyframes)
            keyframes, tokens = self.share(form.budget, rows, selection)
        turns = (
            [(own.text, own.answer)]
            if form.alone
            else choose_turns(rng, example, keyframes.tolist())
        )
        gaps = draw_gaps(rng, example, form.spread) if form.spread else None
        crowd = draw_crowd(rng, example, form.crowd) if form.crowd > 1 else None
        embedding = self.embed(own.text)
        dialogue = Dialogue(rows, keyframes, own.text, embedding, turns, gaps, crowd, tokens)
        if not form.kept:
            return dialogue
        ranges = example.video.ranges()
        near = [ranges[place] for n in needles for place in (n, n + 1) if place < len(ranges)]
        return thin(rng, dialogue, near, form.kept)

    def _example(self, rng: np.random.Generator, form: Format, kind: str) -> Example:
        return make_example(
            int(rng.integers(2**31)),
            form.frames,
            kind=kind,
            split=self.split,
            segments=form.scenes,
            scenes=self.scenes,
        )

    def select(self, rng: np.random.Generator, rows: Tensor, query: str, form: Format) -> Selection:
        """Select the keyframes of a video from its rows in the bank ``[N]`` and a query."""
        count = min(form.keyframes, len(rows))
        if form.selector == "random":
            chosen = np.sort(rng.choice(len(rows), count, replace=False))
            return Selection(torch.from_numpy(chosen), None)
        selector = _selector(form.selector, count)
        selection: Selection = selector.select(self._embeddings[rows], self.embed(query))
        return selection

    def share(
        self, budget: TokenBudget, rows: Tensor, selection: Selection
    ) -> tuple[Tensor, Tensor]:
        """Apply a budget; return the keyframes that fit, and the tokens of each frame."""
        room = int(budget.max_tokens) - 1  # the mark after the video takes one
        embeddings = self._embeddings[rows]
        fitting, tokens = share_tokens(budget, selection, embeddings, POOLED, room)
        return fitting.keyframes, tokens


@cache
def _selector(name: str, keyframes: int) -> Any:
    return registry.build_part("selector", vtc.selector(name, keyframes=keyframes))


@torch.no_grad()
def _embed(dual_encoder: Any, tokenizer: Any, text: str) -> Tensor:
    return embed_texts(dual_encoder, tokenizer, [text])[0].cpu()


def _some_frames(
    rng: np.random.Generator, video: SyntheticVideo, needles: Sequence[int]
) -> list[int]:
    """Draw a frame of each needle and of half of the scenes after needles."""
    ranges = video.ranges()
    after = {place + 1 for place in needles if place + 1 < len(ranges) and rng.random() < 0.5}
    return [int(rng.integers(*ranges[place])) for place in sorted({*needles} | after)]


def thin(
    rng: np.random.Generator, dialogue: Dialogue, near: Sequence[tuple[int, int]], count: int
) -> Dialogue:
    """Remove frames from a long video such that the rest stands for all of it.

    Keyframes, their neighbours and the frames of ``near`` remain. Of the others a random sample
    remains, and each counts for its share of them in attention, so the sum over a sample estimates
    the sum over all. Positions stay as they were.

    Args:
        rng: Random generator.
        dialogue: A dialogue about a video of N frames, without gaps or crowds.
        near: Ranges (first, end) of frames to keep.
        count: Number of frames to keep, more than those that remain in any case.

    Raises:
        ValueError: The video is not longer, or the frames that remain are too many.
    """
    total = len(dialogue.rows)
    fixed = torch.zeros(total, dtype=torch.bool)
    for offset in range(-_BESIDE, _BESIDE + 1):
        fixed[(dialogue.keyframes + offset).clamp(0, total - 1)] = True
    for first, end in near:
        fixed[first:end] = True
    others = (~fixed).nonzero()[:, 0]
    sampled = count - int(fixed.sum())
    require(0 < sampled < len(others), "count", count, f"{count - sampled + 1} to {total - 1}")
    sample = others[torch.from_numpy(rng.choice(len(others), sampled, replace=False))]
    remaining = torch.cat([fixed.nonzero()[:, 0], sample]).sort().values
    weights = torch.where(fixed, 1.0, len(others) / sampled)
    return replace(
        dialogue,
        rows=dialogue.rows[remaining],
        keyframes=torch.searchsorted(remaining, dialogue.keyframes),
        gaps=remaining.diff(prepend=torch.tensor([-1])) - 1,
        crowd=weights[remaining],
    )


def draw_gaps(rng: np.random.Generator, example: Example, spread: int) -> Tensor:
    """Draw gaps in the positions before one or two scenes, as if a long video were there.

    Their logarithms are uniform. Two adjacent scenes of the evidence get no gap between them,
    because they are adjacent in a long video too.

    Returns:
        ``[N]`` int64, positions skipped before each frame.
    """
    video, evidence = example.video, example.question.evidence
    gaps = torch.zeros(len(video), dtype=torch.int64)
    inside = {second for (_, end), (second, _) in pairwise(evidence) if end == second}
    places = [first for first, _ in video.ranges() if first not in inside]
    count = min(len(places), int(rng.integers(1, 3)))
    for place in rng.choice(places, count, replace=False).tolist():
        gaps[place] = int(np.exp(rng.uniform(0, np.log(spread))))
    return gaps


def draw_crowd(rng: np.random.Generator, example: Example, most: int) -> Tensor:
    """Draw the number of frames that each frame counts for: 1 in the evidence, else up to ``most``.

    The other questions about a video are about its keyframes, which always count once.

    Returns:
        ``[N]`` float32.
    """
    crowd = torch.full((len(example.video),), float(np.exp(rng.uniform(0, np.log(most)))))
    for first, end in example.question.evidence:
        crowd[first:end] = 1
    return crowd
