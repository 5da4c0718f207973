"""Long videos to learn from: few scenes of many matter, and several questions find them."""

from __future__ import annotations

import numpy as np

from vtc_recipes.synthetic import SHAPES, Example, SyntheticVideo
from vtc_recipes.synthetic.scenes import Scene, find_scene
from vtc_recipes.synthetic.videos import random_lengths, random_segment
from vtc_recipes.tiny.asking import fair_questions
from vtc_recipes.tiny.models import SIDE

_RARE = 4
NEEDLES = 6
"""Scenes of such a video that questions are about."""


def bury(
    rng: np.random.Generator, frames: int, count: int, kind: str, split: str, scenes: int
) -> tuple[Example, list[int]]:
    """A haystack of scenes that leave four shapes alone, and six scenes that show one of these.

    Two of the shapes are shown once and two twice, in scenes that follow one another or do not, so
    that there are questions of all kinds.

    Args:
        frames: Length of the video.
        count: How many scenes follow one another in it, more than ``NEEDLES``.
        kind: Of the question that is handed out.
        split: Of the scenes; the first ``scenes`` of it are drawn from.

    Returns:
        The video with a question about a needle, and the places of the needles among its scenes.
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
    asked = [question for question in fair_questions(video)[kind] if question.shape in rare]
    needles = [place for place, scene in enumerate(ordered) if _shown(scene, rare)]
    return Example(video, asked[int(rng.integers(len(asked)))]), needles


def _shown(scene: Scene, shapes: list[str]) -> set[str]:
    return {thing.shape for thing in scene.objects if thing.shape in shapes}
