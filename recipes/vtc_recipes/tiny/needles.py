"""Long videos for training, with several questions about a few of their scenes."""

from __future__ import annotations

import numpy as np

from vtc_recipes.synthetic import SHAPES, Example, SyntheticVideo
from vtc_recipes.synthetic.scenes import Scene, find_scene
from vtc_recipes.synthetic.videos import random_lengths, random_segment
from vtc_recipes.tiny.asking import fair_questions
from vtc_recipes.tiny.models import SIDE

RARE = 4
NEEDLES = 6
"""Number of scenes in a video with four rare shapes that questions are about."""


def bury(
    rng: np.random.Generator,
    frames: int,
    count: int,
    kind: str,
    split: str,
    scenes: int,
    rare_shapes: int = RARE,
) -> tuple[Example, list[int]]:
    """Draw a haystack of scenes without some rare shapes, and scenes with one of them each.

    Half of the rare shapes appear once and half appear twice, in scenes that may be adjacent, so
    that questions of all kinds are possible.

    Args:
        rng: Random generator.
        frames: Length of the video in frames.
        count: Number of scenes in the video, more than 1.5 per rare shape.
        kind: Kind of the question.
        split: Split of the scenes.
        scenes: Draw from the first ``scenes`` scenes of the split.
        rare_shapes: Number of shapes that questions are about, 2 or 4.

    Returns:
        The video with a question about a needle, and the indices of the needle scenes.
    """
    rare = [SHAPES[number] for number in rng.permutation(len(SHAPES))[:rare_shapes]]
    once, twice = rare[: rare_shapes // 2], rare[rare_shapes // 2 :]

    def find(*shown: str) -> Scene:
        return find_scene(rng, split, SIDE, lambda scene: _shown(scene, rare) == {*shown}, scenes)

    needle_scenes = len(once) + 2 * len(twice)
    groups = [[find()] for _ in range(count - needle_scenes)] + [[find(shape)] for shape in once]
    for shape in twice:
        pair = [find(shape), find(shape)]
        groups += [pair] if rng.random() < 0.5 else [[scene] for scene in pair]
    ordered = [scene for number in rng.permutation(len(groups)) for scene in groups[number]]
    lengths = random_lengths(rng, frames, count)
    drawn = [random_segment(rng, *pair) for pair in zip(ordered, lengths, strict=True)]
    video = SyntheticVideo(drawn)
    questions = [question for question in fair_questions(video)[kind] if question.shape in rare]
    if not questions:  # for example, no scene follows the only needle of its shape
        return bury(rng, frames, count, kind, split, scenes, rare_shapes)
    needles = [place for place, scene in enumerate(ordered) if _shown(scene, rare)]
    return Example(video, questions[int(rng.integers(len(questions)))]), needles


def _shown(scene: Scene, shapes: list[str]) -> set[str]:
    return {thing.shape for thing in scene.objects if thing.shape in shapes}
