"""Scenes of the synthetic world: what they hold, and their frames by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

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
"""How many scenes of a split are drawn from, unless fewer are asked for."""
SMALLEST = 16
"""Pixels of a frame's shorter side, below which shapes cannot be told apart."""
_SPARK_RADIUS = 0.15
_BLOCK_PIXELS = 2**20
_TRIES = 100_000


class Scene:
    """Two or three objects of different shapes and colours before a texture, for ever.

    The seed and the split make the scene: the same two give the same frames in every process, and
    no two splits share a scene. Frames that follow one another are near-duplicates.

    Args:
        seed: A whole number from 0.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: Of a frame: one number for a square, or height and width; at least 16.

    Raises:
        ValueError: The split is unknown, or a number is out of range.
        TypeError: The seed or the size is no whole number.

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
            raise TypeError(f"seed={seed!r}: a whole number is needed")
        if seed < 0:
            raise ValueError(f"seed={seed}: allowed is a whole number from 0")
        self.seed, self.split = int(seed), check_split(split)
        self.height, self.width = frame_size(size)
        self.objects, self.backdrop, self.spark = draw_contents(self.seed, split)

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
        return self.render([number])[0, ...]

    def frames(self, count: int, start: int = 0) -> NDArray[np.uint8]:
        """Frames that follow one another: ``[count, H, W, 3]`` uint8 RGB."""
        return self.render(range(start, start + count))

    def render(self, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames by number, in any order: ``[n, H, W, 3]`` uint8 RGB.

        Raises:
            ValueError: A number is below 0.
        """
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
        """Where the objects are: ``[n, objects, 2]`` float32 pixels, to the right and down."""
        wanted = np.asarray(numbers, dtype=np.int64)
        middles = [np.stack(self._centre(thing, wanted), axis=-1) for thing in self.objects]
        return np.stack(middles, axis=1) * np.float32(self._side)

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
        """``[n, H, W, 3]``, or ``[1, H, W, 3]`` where the backdrop stands still."""
        if not self.backdrop.drift.any():
            numbers = numbers[:1]
        x, y = self._grid(slice(None), slice(None))
        moved = (self.backdrop.drift[:, None, None, None] * numbers[:, None, None]).astype(x.dtype)
        bright = draw_texture(
            self.backdrop.texture, x + moved[0], y + moved[1], self.backdrop.phases
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
        """The middles of pixels, ``[1, w]`` and ``[h, 1]``, in units of the shorter side."""
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
    wanted: Callable[[Scene], bool],
    scenes: int = SCENES,
) -> Scene:
    """Draw from the first ``scenes`` scenes of a split until one is as wanted.

    Raises:
        ValueError: None of very many draws is.
    """
    for seed in _seeds(rng, scenes):
        scene = _scene(seed, split, frame_size(size))
        if wanted(scene):
            return scene
    raise ValueError(
        f"none of {_TRIES} draws from {scenes} scenes of the split {split!r} is as wanted: "
        "allow more scenes"
    )


def frame_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a frame.

    Raises:
        ValueError: A side is below 16 pixels.
        TypeError: The size is neither a whole number nor two of them.
    """
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise TypeError(f"size={size!r}: a whole number is needed, or height and width")
    if min(sides) < SMALLEST:
        raise ValueError(f"size={size!r}: allowed is at least {SMALLEST} pixels a side")
    return int(sides[0]), int(sides[1])


def check_split(split: str) -> str:
    """The split itself.

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: allowed are {', '.join(map(repr, SPLITS))}")
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
