"""The contents of a scene, drawn from its seed: objects, a backdrop and sometimes a spark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtc_recipes.synthetic.drawing import COLOURS, SHAPES, TEXTURES

SPLITS = ("train", "validation", "test")
SPARK_SHARE = 0.2
"""Fraction of scenes with a spark."""
SPARK_BEFORE = 32
"""Sparks start before this frame."""


@dataclass(frozen=True)
class SceneObject:
    """An object that questions may be about; it stays in its quarter of the frame.

    Attributes:
        shape: One of ``SHAPES``.
        colour: A name of ``COLOURS``.
        quarter: 0 to 3: top left, top right, bottom left, bottom right.
        radius: In units of the frame's shorter side, like ``sway``.
        sway: Maximum offset from its centre, horizontal and vertical.
        period: Frames per oscillation, horizontal and vertical.
        phase: Radians at frame 0, horizontal and vertical.
        tilt: Rotation in radians.
    """

    shape: str
    colour: str
    quarter: int
    radius: float
    sway: tuple[float, float]
    period: tuple[float, float]
    phase: tuple[float, float]
    tilt: float


@dataclass(frozen=True)
class Spark:
    """A short event: a small burst of rays in an empty quarter.

    Attributes:
        colour: A name of ``COLOURS``.
        quarter: As in `SceneObject`.
        start: The first frame that shows it.
        length: Frames that show it, 2 to 4.
    """

    colour: str
    quarter: int
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Backdrop:
    """A dull textured background.

    Attributes:
        texture: One of ``TEXTURES``.
        dark: ``[3]`` float32, RGB of its darkest parts.
        contrast: Difference in grey levels between the darkest and brightest parts.
        drift: ``[2]`` float64, motion per frame, horizontal and vertical, in units of the frame's
            shorter side; zero for half of all backdrops.
        phases: ``[3]`` float32 radians that vary the clouds.
    """

    texture: str
    dark: NDArray[np.float32]
    contrast: float
    drift: NDArray[np.float64]
    phases: NDArray[np.float32]


def draw_contents(seed: int, split: str) -> tuple[tuple[SceneObject, ...], Backdrop, Spark | None]:
    """Draw two or three objects of different shapes and colours, a backdrop, and maybe a spark."""
    rng = np.random.default_rng((SPLITS.index(split), seed))
    # Few calls for many numbers, because finding a scene for a question may take thousands of
    # draws.
    places, shapes, colours = rng.random((3, 8)).argsort()
    chances, looks = rng.random(10), rng.random((3, 8))
    quarters = places[places < 4].tolist()
    names = [tuple(COLOURS)[k] for k in colours if k < len(COLOURS)]
    objects = tuple(
        _draw_object(SHAPES[shapes[k]], names[k], quarters[k], looks[k].tolist())
        for k in range(2 if chances[0] < 0.5 else 3)
    )
    backdrop = Backdrop(
        texture=TEXTURES[int(chances[1] * len(TEXTURES))],
        dark=(25 + 40 * chances[2:5]).astype(np.float32),
        contrast=35 + 25 * float(chances[5]),
        drift=(0.024 * chances[6:8] - 0.012) * (chances[8] < 0.5),
        phases=(looks[:, 7] * 2 * np.pi).astype(np.float32),
    )
    return objects, backdrop, _draw_spark(rng, quarters[3]) if chances[9] < SPARK_SHARE else None


def _draw_object(shape: str, colour: str, quarter: int, looks: Sequence[float]) -> SceneObject:
    """Draw an object whose radius and sway together fit its quarter."""
    return SceneObject(
        shape=shape,
        colour=colour,
        quarter=quarter,
        radius=0.16 + 0.04 * looks[0],
        sway=(0.01 + 0.03 * looks[1], 0.01 + 0.03 * looks[2]),
        period=(30 + 60 * looks[3], 30 + 60 * looks[4]),
        phase=(2 * np.pi * looks[5], 2 * np.pi * looks[6]),
        tilt=0.4 * looks[7] - 0.2,
    )


def _draw_spark(rng: np.random.Generator, quarter: int) -> Spark:
    return Spark(
        colour=tuple(COLOURS)[int(rng.integers(len(COLOURS)))],
        quarter=quarter,
        start=int(rng.integers(SPARK_BEFORE)),
        length=int(rng.integers(2, 5)),
    )
