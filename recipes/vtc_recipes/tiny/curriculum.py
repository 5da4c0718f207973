"""From short videos to long ones, and from keyframes that show everything to fewer."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtc_recipes.tiny.asking import KINDS
from vtc_recipes.tiny.world import Format

SHARES = tuple(0.4 if kind == "after" else 0.2 for kind in KINDS)
"""How often a video is about each kind of question: twice for the one that is hardest."""
MOST_KEYFRAMES = 32
SPREAD = 10_000
"""Positions that the longest videos take, and over which half of the short ones are spread."""


def draw_format(rng: np.random.Generator, done: float) -> Format:
    """The format of a batch, when a share of the run is over."""
    if done < 0.15:
        frames, scenes = _pick(rng, 8, 16), _between(rng, 2, 4)
    elif done < 0.3:
        frames, scenes = _pick(rng, 16, 24, 32), _between(rng, 3, 8)
    elif done < 0.5:
        frames, scenes = _pick(rng, 32, 64), _between(rng, 4, 12)
    elif done < 0.85:
        frames = _pick(rng, 32, 64, 64, 128, 256)
        scenes = _between(rng, frames // 12, frames // 6)
    else:
        frames = _pick(rng, 64, 64, 256, 1024)
        scenes = _between(rng, frames // 12, frames // 6)
    keyframes, selector = min(scenes, MOST_KEYFRAMES), "dks"
    if rng.random() < 0.4:  # too few for all scenes, so that merged tokens have to be read
        keyframes = _between(rng, min(2, keyframes), keyframes)
        selector = _pick(rng, "dks", "random")
    spread = SPREAD if rng.random() < 0.5 else 0
    return Format(frames, scenes, keyframes, selector, spread)


def _between(rng: np.random.Generator, least: int, most: int) -> int:
    return int(rng.integers(least, most + 1))


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]
