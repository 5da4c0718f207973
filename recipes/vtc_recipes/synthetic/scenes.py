"""Scenes of the synthetic world, rendered frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from vtc.interfaces.part import require
from vtc_recipes.synthetic.contents import SPLITS, Backdrop, SceneObject, Spark, draw_contents
from vtc_recipes.synthetic.drawing import (
    COLOURS,
    Plane,
    draw_shape,
    draw_spark,
    draw_texture,
    noise,
)

SCENES = 2**31
"""Default number of scenes in a split."""
SMALLEST = 16
"""Minimum length of a frame's shorter side in pixels; below it shapes are indistinguishable."""
_SPARK_RADIUS = 0.15
_BLOCK_PIXELS = 2**20
_TRIES = 100_000


class Scene:
    """An endless scene: two or three objects of different shapes and colours before a texture.

    Seed and split determine the scene: its frames are the same in every process, and no two splits
    share a scene. Consecutive frames are near-duplicates.

    Args:
        seed: An integer >= 0.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: Frame size in pixels: one number for a square, or (height, width); at least 16.

    Raises:
        ValueError: The split is unknown, or a number is out of range.
        TypeError: The seed or the size is not an integer.

    >>> scene = Scene(7, "test")
    >>> scene
    Scene(7, 'test', 48x48: blue circle, red star)
    >>> scene.frames(3).shape
    (3, 48, 48, 3)
    """

    seed: int
    split: str
    height: int
    width: int
    objects: tuple[SceneObject, ...]
    backdrop: Backdrop
    spark: Spark | None

    def __init__(self, seed: int, split: str = "train", size: int | tuple[int, int] = 48) -> None:
        if not isinstance(seed, Integral) or isinstance(seed, bool):
            raise TypeError(f"expected seed to be an integer, got {seed!r}")
        require(seed >= 0, "seed", seed, "an integer >= 0")
        self.seed, self.split = int(seed), check_split(split)
        self.height, self.width = frame_size(size)
        self.objects, self.backdrop, self.spark = draw_contents(self.seed, split)

    def __repr__(self) -> str:
        objects = ", ".join(f"{thing.colour} {thing.shape}" for thing in self.objects)
        return f"Scene({self.seed}, {self.split!r}, {self.height}x{self.width}: {objects})"

    def colour_of(self, shape: str) -> str | None:
        """Return the colour of the object of this shape, or None."""
        return next((thing.colour for thing in self.objects if thing.shape == shape), None)

    def shape_of(self, colour: str) -> str | None:
        """Return the shape of the object of this colour, or None."""
        return next((thing.shape for thing in self.objects if thing.colour == colour), None)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """Return one frame: ``[H, W, 3]`` uint8 RGB."""
        return self.render([number])[0, ...]

    def frames(self, count: int, start: int = 0) -> NDArray[np.uint8]:
        """Return consecutive frames: ``[count, H, W, 3]`` uint8 RGB."""
        return self.render(range(start, start + count))

    def render(self, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return frames by number, in any order: ``[n, H, W, 3]`` uint8 RGB.

        Raises:
            ValueError: A number is below 0.
        """
        indices = np.asarray(numbers, dtype=np.int64)
        if indices.size and indices.min() < 0:
            raise ValueError(f"expected frame numbers >= 0, got {indices.min()}")
        frames = np.empty((len(indices), self.height, self.width, 3), dtype=np.uint8)
        block_size = max(1, _BLOCK_PIXELS // (self.height * self.width))
        for start in range(0, len(indices), block_size):
            block = slice(start, start + block_size)
            frames[block] = self._render(indices[block])
        return frames

    def centres(self, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the centres of the objects: ``[n, objects, 2]`` float32 pixels, x and y."""
        indices = np.asarray(numbers, dtype=np.int64)
        centres = [np.stack(self._centre(thing, indices), axis=-1) for thing in self.objects]
        return np.stack(centres, axis=1) * np.float32(self._side)

    @property
    def _side(self) -> int:
        return min(self.height, self.width)

    def _render(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        frames = np.empty((len(numbers), self.height, self.width, 3), dtype=np.float32)
        frames[:] = self._ground(numbers)
        for thing in self.objects:
            self._add_object(frames, thing, numbers)
        if self.spark is not None:
            since = numbers - self.spark.start
            for k in np.flatnonzero((since >= 0) & (since < self.spark.length)):
                self._add_spark(frames[k : k + 1], self.spark)
        frames += noise(self.height, self.width, self.seed, numbers)[..., None]
        return np.clip(frames, 0, 255, out=frames).astype(np.uint8)

    def _ground(self, numbers: NDArray[np.int64]) -> Plane:
        """Return the backdrop ``[n, H, W, 3]``, or ``[1, H, W, 3]`` if it does not move."""
        if not self.backdrop.drift.any():
            numbers = numbers[:1]
        x, y = self._grid(slice(None), slice(None))
        offset = (self.backdrop.drift[:, None, None, None] * numbers[:, None, None]).astype(x.dtype)
        bright = draw_texture(
            self.backdrop.texture, x + offset[0], y + offset[1], self.backdrop.phases
        )
        return self.backdrop.dark + bright[..., None] * np.float32(self.backdrop.contrast)

    def _add_object(
        self, frames: NDArray[np.float32], thing: SceneObject, numbers: NDArray[np.int64]
    ) -> None:
        rows, columns = self._quarter(thing.quarter)
        x, y = self._grid(rows, columns)
        middle_x, middle_y = (middle[:, None, None] for middle in self._centre(thing, numbers))
        right, down = x - middle_x, y - middle_y
        scale = np.float32(1 / thing.radius)
        cos, sin = np.float32(np.cos(thing.tilt)), np.float32(np.sin(thing.tilt))
        covered = draw_shape(
            thing.shape,
            (right * cos + down * sin) * scale,
            (down * cos - right * sin) * scale,
            thing.radius * self._side,
        )
        _paint(frames[:, rows, columns], covered, thing.colour)

    def _add_spark(self, frames: NDArray[np.float32], spark: Spark) -> None:
        rows, columns = self._quarter(spark.quarter)
        x, y = self._grid(rows, columns)
        middle_x, middle_y = self._middle(spark.quarter)
        scale = np.float32(1 / _SPARK_RADIUS)
        right, down = (x - np.float32(middle_x)) * scale, (y - np.float32(middle_y)) * scale
        _paint(
            frames[:, rows, columns],
            draw_spark(right, down, _SPARK_RADIUS * self._side),
            spark.colour,
        )

    def _grid(self, rows: slice, columns: slice) -> tuple[Plane, Plane]:
        """Return pixel centres ``[1, w]`` and ``[h, 1]``, in units of the shorter side."""
        half, side = np.float32(0.5), np.float32(self._side)
        x: Plane = (np.arange(self.width, dtype=np.float32)[None, columns] + half) / side
        y: Plane = (np.arange(self.height, dtype=np.float32)[rows, None] + half) / side
        return x, y

    def _quarter(self, quarter: int) -> tuple[slice, slice]:
        rows = slice(self.height // 2, None) if quarter >= 2 else slice(self.height // 2)
        columns = slice(self.width // 2, None) if quarter % 2 else slice(self.width // 2)
        return rows, columns

    def _middle(self, quarter: int) -> tuple[float, float]:
        right, down = 0.25 + 0.5 * (quarter % 2), 0.25 + 0.5 * (quarter // 2)
        return right * self.width / self._side, down * self.height / self._side

    def _centre(self, thing: SceneObject, numbers: NDArray[np.int64]) -> tuple[Plane, Plane]:
        motions = zip(
            self._middle(thing.quarter), thing.sway, thing.period, thing.phase, strict=True
        )
        x, y = (
            (middle + sway * np.sin(numbers * (2 * np.pi / period) + phase)).astype(np.float32)
            for middle, sway, period, phase in motions
        )
        return x, y


def find_scene(
    rng: np.random.Generator,
    split: str,
    size: int | tuple[int, int],
    condition: Callable[[Scene], bool],
    scenes: int = SCENES,
) -> Scene:
    """Draw from the first ``scenes`` scenes of a split until one meets a condition.

    Raises:
        ValueError: No scene meets it after 100,000 draws.
    """
    for seed in _seeds(rng, scenes):
        scene = _scene(seed, split, frame_size(size))
        if condition(scene):
            return scene
    raise ValueError(
        f"none of {_TRIES} draws from {scenes} scenes of the split {split!r} meets the condition; "
        "draw from more scenes"
    )


def frame_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a frame.

    Raises:
        ValueError: A side is below 16 pixels.
        TypeError: The size is neither an integer nor a pair of integers.
    """
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise TypeError(f"expected size to be an integer or (height, width), got {size!r}")
    require(min(sides) >= SMALLEST, "size", size, f"at least {SMALLEST} pixels per side")
    return int(sides[0]), int(sides[1])


def check_split(split: str) -> str:
    """Validate and return the split.

    Raises:
        ValueError: The split is unknown.
    """
    require(split in SPLITS, "split", split, f"one of {', '.join(map(repr, SPLITS))}")
    return split


@lru_cache(maxsize=8192)
def _scene(seed: int, split: str, size: tuple[int, int]) -> Scene:
    return Scene(seed, split, size)


def _seeds(rng: np.random.Generator, scenes: int) -> Iterator[int]:
    for _ in range(_TRIES // 100):
        yield from rng.integers(scenes, size=100).tolist()


def _paint(frames: NDArray[np.float32], covered: Plane, colour: str) -> None:
    paint = np.array(COLOURS[colour], dtype=np.float32)
    frames += covered[..., None] * (paint - frames)
