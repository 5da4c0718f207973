"""Long videos for training, with several questions about a few of their scenes."""

from __future__ import annotations

import numpy as np

from vtc_recipes.synthetic import SHAPES, Example, SyntheticVideo
from vtc_recipes.synthetic.scenes import Scene, find_scene
from vtc_recipes.synthetic.videos import random_lengths, random_segment
from vtc_recipes.tiny.asking import fair_questions
from vtc_recipes.tiny.models import SIDE

_RARE = 4
NEEDLES = 6
"""Number of scenes in such a video that questions are about."""


def bury(
    rng: np.random.Generator, frames: int, count: int, kind: str, split: str, scenes: int
) -> tuple[Example, list[int]]:
    """Draw a haystack of scenes without four rare shapes, and six scenes with one of them each.

    Two of the rare shapes appear once and two appear twice, in scenes that may be adjacent, so that
    questions of all kinds are possible.

    Args:
        rng: Random generator.
        frames: Length of the video in frames.
        count: Number of scenes in the video, more than ``NEEDLES``.
        kind: Kind of the question.
        split: Split of the scenes.
        scenes: Draw from the first ``scenes`` scenes of the split.

    Returns:
        The video with a question about a needle, and the indices of the needle scenes.
    """
    rare = [SHAPES[number] for number in rng.permutation(len(SHAPES))[:_RARE]]

    def find(*shown: str) -> Scene:
        return find_scene(rng, split, SIDE, lambda scene: _shown(scene, rare) == {*shown}, scenes)

    groups = [[find()] for _ in range(count - NEEDLES)] + [[find(shape)] for shape in rare[:2]]
    for shape in rare[2:]:
        pair = [find(shape), find(shape)]
        groups += [pair] if rng.random() < 0.5 else [[scene] for scene in pair]
    ordered = [scene for number in rng.permutation(len(groups)) for scene in groups[number]]
    lengths = random_lengths(rng, frames, count)
    drawn = [random_segment(rng, *pair) for pair in zip(ordered, lengths, strict=True)]
    video = SyntheticVideo(drawn)
    questions = [question for question in fair_questions(video)[kind] if question.shape in rare]
    needles = [place for place, scene in enumerate(ordered) if _shown(scene, rare)]
    return Example(video, questions[int(rng.integers(len(questions)))]), needles


def _shown(scene: Scene, shapes: list[str]) -> set[str]:
    return {thing.shape for thing in scene.objects if thing.shape in shapes}
