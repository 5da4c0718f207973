"""Scenes of the synthetic world: what is in them, and their frames by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from vtc_recipes.synthetic.drawing import (
    COLOURS,
    SHAPES,
    TEXTURES,
    Plane,
    draw_shape,
    draw_spark,
    draw_texture,
    noise,
)

SPLITS = ("train", "validation", "test")
SPARK_SHARE = 0.2
"""How many of all scenes have a spark."""
SPARK_BEFORE = 32
"""A spark begins within this many frames."""
SCENES = 2**31
"""How many scenes of a split are drawn from, unless fewer are asked for."""
_BLOCK_PIXELS = 2**20
_TRIES = 100_000


@dataclass(frozen=True)
class SceneObject:
    """An object that a question may be about; it stays in its quarter of the frame.

    Attributes:
        shape: One of ``SHAPES``.
        colour: A name of ``COLOURS``.
        quarter: 0 to 3: top left, top right, bottom left, bottom right.
        radius: In units of the frame's shorter side; so is ``sway``.
        sway: How far it moves to either side, horizontally and vertically.
        period: Frames of one to and fro, horizontally and vertically.
        phase: Radians at frame 0, horizontally and vertically.
        tilt: Radians by which it is turned.
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
        quarter: As of an object.
        start: The first frame that shows it.
        length: For how many frames, 2 to 4.
    """

    colour: str
    quarter: int
    start: int
    length: int


class Scene:
    """Two or three objects of different shapes and colours before a texture, for ever.

    The seed and the split make the scene: the same two give the same frames in every process,
    and no two splits share a scene. Frames that follow one another are near-duplicates.

    Args:
        seed: A whole number from 0.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: Of a frame: one number for a square, or height and width; at least 16.

    Raises:
        ValueError: The split is unknown, or a number is out of range.
        TypeError: The seed is not a whole number.

    >>> scene = Scene(7, "test")
    >>> scene.frames(3).shape
    (3, 48, 48, 3)
    """

    objects: tuple[SceneObject, ...]
    texture: str
    spark: Spark | None

    def __init__(self, seed: int, split: str = "train", size: int | tuple[int, int] = 48) -> None:
        if not isinstance(seed, Integral) or isinstance(seed, bool):
            raise TypeError(f"seed={seed!r}: a whole number is needed")
        if seed < 0:
            raise ValueError(f"seed={seed}: allowed is a whole number from 0")
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: allowed are {', '.join(map(repr, SPLITS))}")
        self.seed, self.split = int(seed), split
        self.height, self.width = frame_size(size)
        rng = np.random.default_rng((SPLITS.index(split), self.seed))
        # Few calls for many numbers: scenes are drawn by the thousand until one fits a question.
        places, shapes, colours = rng.random((3, 8)).argsort()
        chances, looks = rng.random(12), rng.random((3, 8))
        self._quarters = places[places < 4].tolist()
        names = [tuple(COLOURS)[k] for k in colours if k < len(COLOURS)]
        self.objects = tuple(
            _draw_object(SHAPES[shapes[k]], names[k], self._quarters[k], looks[k].tolist())
            for k in range(2 if chances[0] < 0.5 else 3)
        )
        self.texture = TEXTURES[int(chances[1] * len(TEXTURES))]
        self.spark = _draw_spark(self._quarters[3], rng) if chances[2] < SPARK_SHARE else None
        self._contrast = np.float32(35 + 25 * chances[3])
        self._drift = (0.024 * chances[4:6] - 0.012) * (chances[6] < 0.5)
        self._dark = (25 + 40 * chances[7:10]).astype(np.float32)
        self._phases = (looks[:, 7] * 2 * np.pi).astype(np.float32)

    def __repr__(self) -> str:
        found = ", ".join(f"{thing.colour} {thing.shape}" for thing in self.objects)
        return f"Scene({self.seed}, {self.split!r}, {self.height}x{self.width}: {found})"

    def colour_of(self, shape: str) -> str | None:
        """The colour of the object of a shape; None where there is none."""
        return next((thing.colour for thing in self.objects if thing.shape == shape), None)

    def shape_of(self, colour: str) -> str | None:
        """The shape of the object of a colour; None where there is none."""
        return next((thing.shape for thing in self.objects if thing.colour == colour), None)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """One frame: ``[H, W, 3]`` uint8 RGB."""
        return self.render([number])[0]

    def frames(self, count: int, start: int = 0) -> NDArray[np.uint8]:
        """Frames that follow one another: ``[count, H, W, 3]`` uint8 RGB."""
        return self.render(range(start, start + count))

    def render(self, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames by number, in any order: ``[n, H, W, 3]`` uint8 RGB."""
        wanted = np.asarray(numbers, dtype=np.int64)
        if wanted.size and wanted.min() < 0:
            raise ValueError(f"frame {wanted.min()}: the first frame of a scene is number 0")
        frames = np.empty((len(wanted), self.height, self.width, 3), dtype=np.uint8)
        each = max(1, _BLOCK_PIXELS // (self.height * self.width))
        for start in range(0, len(wanted), each):
            block = slice(start, start + each)
            frames[block] = self._render(wanted[block])
        return frames

    def centres(self, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Where the objects are: ``[n, objects, 2]`` float32 pixels, x to the right and y down."""
        wanted = np.asarray(numbers, dtype=np.int64)
        middles = [self._centre(thing, wanted) for thing in self.objects]
        return np.stack([np.stack(middle, axis=-1) for middle in middles], axis=1) * self._side

    @property
    def _side(self) -> np.float32:
        return np.float32(min(self.height, self.width))

    def _render(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        side = self._side
        y = (np.arange(self.height, dtype=np.float32)[:, None] + np.float32(0.5)) / side
        x = (np.arange(self.width, dtype=np.float32)[None, :] + np.float32(0.5)) / side
        moved = (self._drift[:, None, None, None] * numbers[:, None, None]).astype(np.float32)
        if not self._drift.any():
            moved = moved[:, :1]  # a background that stands still is drawn once
        ground = draw_texture(self.texture, x + moved[0], y + moved[1], self._phases)
        frames = np.empty((len(numbers), self.height, self.width, 3), dtype=np.float32)
        frames[:] = self._dark + ground[..., None] * self._contrast
        for thing in self.objects:
            rows, columns = self._quarter(thing.quarter)
            middle_x, middle_y = (m[:, None, None] for m in self._centre(thing, numbers))
            radius = np.float32(thing.radius)
            across, down = (x[:, columns] - middle_x) / radius, (y[rows] - middle_y) / radius
            cos, sin = np.float32(np.cos(thing.tilt)), np.float32(np.sin(thing.tilt))
            turned = across * cos + down * sin, down * cos - across * sin
            covered = draw_shape(thing.shape, *turned, sharpness=float(radius * side))
            _paint(frames[:, rows, columns], covered, thing.colour)
        if self.spark is not None:
            since = numbers - self.spark.start
            lit = np.flatnonzero((since >= 0) & (since < self.spark.length))
            rows, columns = self._quarter(self.spark.quarter)
            middle_x, middle_y = self._middle(self.spark.quarter)
            across, down = (x[:, columns] - middle_x) / 0.15, (y[rows] - middle_y) / 0.15
            covered = draw_spark(*np.broadcast_arrays(across, down), sharpness=0.15 * float(side))
            for k in lit:
                _paint(frames[k, rows, columns], covered, self.spark.colour)
        frames += noise(self.height, self.width, self.seed, numbers)[..., None]
        return np.clip(frames, 0, 255, out=frames).astype(np.uint8)

    def _quarter(self, quarter: int) -> tuple[slice, slice]:
        rows = slice(self.height // 2, None) if quarter >= 2 else slice(self.height // 2)
        columns = slice(self.width // 2, None) if quarter % 2 else slice(self.width // 2)
        return rows, columns

    def _middle(self, quarter: int) -> tuple[np.float32, np.float32]:
        across, down = 0.25 + 0.5 * (quarter % 2), 0.25 + 0.5 * (quarter // 2)
        return (
            np.float32(across * self.width) / self._side,
            np.float32(down * self.height) / self._side,
        )

    def _centre(self, thing: SceneObject, numbers: NDArray[np.int64]) -> tuple[Plane, Plane]:
        x, y = (
            middle + sway * np.sin(numbers * (2 * np.pi / period) + phase)
            for middle, sway, period, phase in zip(
                self._middle(thing.quarter), thing.sway, thing.period, thing.phase, strict=True
            )
        )
        return x.astype(np.float32), y.astype(np.float32)


def find_scene(
    rng: np.random.Generator,
    split: str,
    size: int | tuple[int, int],
    wanted: Callable[[Scene], bool],
    scenes: int = SCENES,
) -> Scene:
    """Draw from the first ``scenes`` scenes of a split until one is as wanted.

    Raises:
        ValueError: None of very many scenes is.
    """
    for seed in _seeds(rng, scenes):
        scene = _scene(seed, split, frame_size(size))
        if wanted(scene):
            return scene
    raise ValueError(
        f"none of {_TRIES} draws from {scenes} scenes of the split {split!r} is as wanted: "
        "allow more scenes"
    )


def _seeds(rng: np.random.Generator, scenes: int) -> Iterator[int]:
    for _ in range(_TRIES // 100):
        yield from rng.integers(scenes, size=100).tolist()


@lru_cache(maxsize=8192)
def _scene(seed: int, split: str, size: tuple[int, int]) -> Scene:
    return Scene(seed, split, size)


def frame_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a frame.

    Raises:
        ValueError: A side is below 16 pixels, in which no shape can be told.
    """
    height, width = (size, size) if isinstance(size, Integral) else size
    if min(height, width) < 16:
        raise ValueError(f"size={size!r}: allowed is at least 16 pixels a side")
    return int(height), int(width)


def _draw_object(shape: str, colour: str, quarter: int, looks: Sequence[float]) -> SceneObject:
    """Radius and sway together stay below a quarter, so that no object leaves its place."""
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


def _draw_spark(quarter: int, rng: np.random.Generator) -> Spark:
    return Spark(
        colour=tuple(COLOURS)[rng.integers(len(COLOURS))],
        quarter=quarter,
        start=int(rng.integers(SPARK_BEFORE)),
        length=int(rng.integers(2, 5)),
    )


def _paint(frames: NDArray[np.float32], covered: Plane, colour: str) -> None:
    paint = np.array(COLOURS[colour], dtype=np.float32)
    frames += covered[..., None] * (paint - frames)
