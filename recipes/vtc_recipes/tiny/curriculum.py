"""From short videos to long ones, and from keyframes that show everything to fewer."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtc_recipes.tiny.asking import KINDS
from vtc_recipes.tiny.world import Format

MOST_KEYFRAMES = 32
SPREAD = 10_000
"""Positions that the longest videos take, and by which scenes of short ones are drawn apart."""


def draw_format(rng: np.random.Generator, done: float) -> Format:
    """The format of a batch, when a share of the run is over."""
    spread = SPREAD if done >= 0.3 and rng.random() < 0.5 else 0
    if done >= 0.25 and rng.random() < 0.25:
        return _merged(rng, spread)
    if done < 0.2:
        frames, scenes = _pick(rng, 8, 16), _between(rng, 2, 4)
    elif done < 0.4:
        frames, scenes = _pick(rng, 16, 24, 32), _between(rng, 3, 8)
    elif done < 0.65:
        frames, scenes = _pick(rng, 32, 64), _between(rng, 4, 12)
    else:
        frames = _pick(rng, 32, 64, 64, 128, 256, *(() if done < 0.8 else (512, 1024)))
        scenes = _between(rng, max(2, frames // 12), frames // 6)
    return Format(frames, scenes, min(scenes, MOST_KEYFRAMES), spread=spread)


def _merged(rng: np.random.Generator, spread: int) -> Format:
    """Videos with too few keyframes for their scenes: merged tokens have to be read.

    Keyframes are any frames, or the most relevant ones: then those of the scene that a question
    names are there, and those of the scene after it are not, as in a very long video.
    """
    frames = _pick(rng, 8, 16, 32, 64)
    scenes = _between(rng, 2, max(2, min(frames // 4, 10)))
    keyframes = _between(rng, 1, max(1, scenes // 2))
    selector = "random" if rng.random() < 0.4 else "dks"
    return Format(frames, scenes, keyframes, selector, spread, alone=True)


def draw_kinds(rng: np.random.Generator, form: Format, count: int) -> list[str]:
    """What the videos of a batch are about: most often what is hardest in their format."""
    after = 0.75 if form.alone and form.selector == "dks" else 0.4
    shares = [after if kind == "after" else (1 - after) / (len(KINDS) - 1) for kind in KINDS]
    chosen: list[str] = rng.choice(KINDS, size=count, p=shares).tolist()
    return chosen


def _between(rng: np.random.Generator, least: int, most: int) -> int:
    return int(rng.integers(least, most + 1))


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]
