"""The curriculum: from short videos to long ones, and from many keyframes to few."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vtc.interfaces.token_budget import TokenBudget
from vtc_recipes.tiny.asking import KINDS
from vtc_recipes.tiny.needles import NEEDLES
from vtc_recipes.tiny.world import Format

MOST_KEYFRAMES = 32
SPREAD = 10_000
"""Number of positions in the longest videos, and the maximum gap between scenes of short ones."""
CROWD = 16
"""Maximum weight of a frame in attention, so that 1,024 frames compete like 10,000."""

HOURS = Format(10_000, 1250, MOST_KEYFRAMES, alone=True, buried=True, rare=2, kept=640)
"""The format of a video of almost three hours at one frame per second."""


def draw_caption_format(rng: np.random.Generator, least: int, most: int) -> Format:
    """Draw the format of a short video of ``least`` to ``most`` scenes to describe."""
    scenes = _between(rng, least, most)
    return Format(scenes * _between(rng, 2, 4), scenes, scenes)


def draw_format(rng: np.random.Generator, done: float) -> Format:
    """Draw the format of a batch of questions, given the completed share of the run.

    Scenes of a few frames come first, because their next scene is near, and finding it takes the
    longest to learn. Merged tokens appear early.
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
    """Draw the format of a batch of long videos."""
    chance, spread = rng.random(), SPREAD if rng.random() < 0.3 else 0
    crowd = CROWD if rng.random() < 0.7 else 1
    frames = _pick(rng, 512, 1024, 1024, 1024, 2048)
    if chance < 0.6:
        return replace(_buried(rng, frames, spread), crowd=crowd)
    if chance < 0.75:  # as at inference: one question, with its keyframes
        scenes = _between(rng, frames // 12, frames // 6)
        keyframes = _between(rng, 4, MOST_KEYFRAMES)
        return Format(frames, scenes, keyframes, spread=spread, alone=True, crowd=crowd)
    return _merged(rng, 1.0, spread) if chance < 0.9 else draw_format(rng, 0.52)


def draw_hours(rng: np.random.Generator) -> Format:
    """Draw the format of a batch of videos of hours, thinned; most keyframes are irrelevant."""
    frames = _pick(rng, 4000, 7000, 10_000, 10_000)
    keyframes = _pick(rng, 16, 32, 32)
    rare, size = _pick(rng, 2, 4), {"frames": frames, "scenes": frames // 8}
    return replace(HOURS, **size, keyframes=keyframes, rare=rare, alone=False)


def draw_budgeted_hours(rng: np.random.Generator, budget: TokenBudget) -> Format:
    """Draw the format of a batch of whole videos of hours, whose tokens a budget sets.

    In half of them the scene after a named one has keyframes too, as with ``dks_next`` in use.
    """
    keyframes, alone = _pick(rng, 8, 8, 16), bool(rng.random() < 0.5)
    selector = "dks_next" if rng.random() < 0.5 else "dks"
    form = replace(draw_hours(rng), keyframes=keyframes, alone=alone, kept=0)
    return replace(form, selector=selector, budget=budget)


def _merged(rng: np.random.Generator, done: float, spread: int) -> Format:
    """Draw the format of videos with fewer keyframes than scenes, so that merged tokens matter.

    Keyframes are random or the most relevant ones. In the latter case the scene that a question
    names has some and the next scene has none, as in a very long video.
    """
    frames = _pick(rng, 4, 8, 16) if done < 0.3 else _pick(rng, 8, 16, 32, 64)
    scenes = _between(rng, 2, max(2, min(frames // 4, 10)))
    keyframes = _between(rng, 1, max(1, scenes // 2))
    selector = "random" if rng.random() < 0.4 else "dks"
    return Format(frames, scenes, keyframes, selector, spread, alone=True)


def _buried(rng: np.random.Generator, frames: int, spread: int) -> Format:
    """Draw the format of long videos with a few relevant scenes, each with a keyframe."""
    scenes = _between(rng, max(NEEDLES + 2, frames // 12), frames // 6)
    return Format(frames, scenes, _between(rng, 4, 24), spread=spread, buried=True)


def draw_kinds(rng: np.random.Generator, form: Format, count: int) -> list[str]:
    """Draw the kinds of questions of a batch; the hardest kind for a format is most frequent."""
    after = 0.6 if form.buried or (form.scenes <= 8 and not form.spread) else 0.4
    if form.alone and form.selector == "dks":
        after = 0.75
    shares = [after if kind == "after" else (1 - after) / (len(KINDS) - 1) for kind in KINDS]
    kinds: list[str] = rng.choice(KINDS, size=count, p=shares).tolist()
    return kinds


def _between(rng: np.random.Generator, least: int, most: int) -> int:
    return int(rng.integers(least, most + 1))


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]
