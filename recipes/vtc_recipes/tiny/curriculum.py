"""From short videos to long ones, and from keyframes that show everything to fewer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vtc_recipes.tiny.asking import KINDS
from vtc_recipes.tiny.needles import NEEDLES
from vtc_recipes.tiny.world import Format

MOST_KEYFRAMES = 32
SPREAD = 10_000
"""Positions that the longest videos take, and by which scenes of short ones are drawn apart."""
CROWD = 16
"""As how many frames each counts, at most, of a long video that shall be as crowded as those."""


def draw_caption_format(rng: np.random.Generator, least: int, most: int) -> Format:
    """A short video of so many scenes, for a description of all of them."""
    scenes = _between(rng, least, most)
    return Format(scenes * _between(rng, 2, 4), scenes, scenes)


def draw_format(rng: np.random.Generator, done: float) -> Format:
    """The format of a batch of questions, when a share of the run is over.

    Scenes of a few frames come first, so that the next one is near: to find it is what takes
    longest to learn. Merged tokens are read from early on.
    """
    spread = SPREAD if done >= 0.5 and rng.random() < 0.5 else 0
    if done >= 0.08 and rng.random() < (0.15 if done < 0.5 else 0.25):
        return _merged(rng, done, spread)
    if done >= 0.55 and rng.random() < 0.5:
        return _buried(rng, _pick(rng, 128, 256, 512, 1024, 1024), spread)
    if done < 0.26:
        scenes = _between(rng, 2, 4 if done < 0.1 else 6)
        frames = scenes * _pick(rng, 2, 3, 4)
    elif done < 0.5:
        scenes = _between(rng, 3, 8)
        frames = scenes * _pick(rng, 2, 4, 6)
    else:
        frames = _pick(rng, 32, 64, 64, 128)
        scenes = _between(rng, max(2, frames // 12), frames // 6)
    return Format(frames, scenes, min(scenes, MOST_KEYFRAMES), spread=spread)


def draw_long_format(rng: np.random.Generator) -> Format:
    """The format of a batch once everything is learned that short videos teach."""
    chance, spread = rng.random(), SPREAD if rng.random() < 0.3 else 0
    crowd = CROWD if rng.random() < 0.7 else 1
    frames = _pick(rng, 512, 1024, 1024, 1024, 2048)
    if chance < 0.6:
        return replace(_buried(rng, frames, spread), crowd=crowd)
    if chance < 0.75:  # as it is in the end: one question, and the keyframes for it
        scenes = _between(rng, frames // 12, frames // 6)
        keyframes = _between(rng, 4, MOST_KEYFRAMES)
        return Format(frames, scenes, keyframes, spread=spread, alone=True, crowd=crowd)
    return _merged(rng, 1.0, spread) if chance < 0.9 else draw_format(rng, 0.52)


def _merged(rng: np.random.Generator, done: float, spread: int) -> Format:
    """Videos with too few keyframes for their scenes: merged tokens have to be read.

    Keyframes are any frames, or the most relevant ones: then those of the scene that a question
    names are there, and those of the scene after it are not, as in a very long video.
    """
    frames = _pick(rng, 4, 8, 16) if done < 0.3 else _pick(rng, 8, 16, 32, 64)
    scenes = _between(rng, 2, max(2, min(frames // 4, 10)))
    keyframes = _between(rng, 1, max(1, scenes // 2))
    selector = "random" if rng.random() < 0.4 else "dks"
    return Format(frames, scenes, keyframes, selector, spread, alone=True)


def _buried(rng: np.random.Generator, frames: int, spread: int) -> Format:
    """Long videos of which little matters; beside the most relevant keyframes come those of it."""
    scenes = _between(rng, max(NEEDLES + 2, frames // 12), frames // 6)
    return Format(frames, scenes, _between(rng, 4, 24), spread=spread, buried=True)


def draw_kinds(rng: np.random.Generator, form: Format, count: int) -> list[str]:
    """What the videos of a batch are about: most often what is hardest in their format."""
    after = 0.6 if form.buried or (form.scenes <= 8 and not form.spread) else 0.4
    if form.alone and form.selector == "dks":
        after = 0.75
    shares = [after if kind == "after" else (1 - after) / (len(KINDS) - 1) for kind in KINDS]
    chosen: list[str] = rng.choice(KINDS, size=count, p=shares).tolist()
    return chosen


def _between(rng: np.random.Generator, least: int, most: int) -> int:
    return int(rng.integers(least, most + 1))


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]
