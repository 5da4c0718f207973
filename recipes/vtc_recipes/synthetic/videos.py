"""Synthetic videos: sequences of scene segments, rendered on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtc.interfaces.part import require
from vtc.video import VideoSource
from vtc.video.writing import write_video
from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.scenes import SCENES, Scene, check_split, find_scene

BLOCK = 32
"""Number of frames rendered at a time and held in memory."""
MOST_SKIPPED = 16
"""A random segment starts at one of the first 16 frames of its scene."""


@dataclass(frozen=True)
class Segment:
    """``length`` frames of a scene, starting at frame ``start``."""

    scene: Scene
    start: int
    length: int

    @property
    def spark(self) -> tuple[int, int] | None:
        """Return the range (first, end) of the segment's frames that show the spark, or None."""
        if self.scene.spark is None:
            return None
        first = max(self.scene.spark.start - self.start, 0)
        end = min(self.scene.spark.start + self.scene.spark.length - self.start, self.length)
        return (first, end) if first < end else None


class SyntheticVideo:
    """A sequence of scene segments; frames are rendered on demand.

    It is a `vtc.video.FrameSequence`, so ``VideoSource`` and ``vtc.ask`` accept it directly.

    Args:
        segments: At least one; all have the same frame size.

    Raises:
        ValueError: There is no segment, one is empty, or sizes differ.

    >>> video = random_video(seed=3, frames=10_000)
    >>> len(video), video.frames([0, 9_999]).shape
    (10000, (2, 48, 48, 3))
    """

    height: int
    width: int

    def __init__(self, segments: Sequence[Segment]) -> None:
        if not segments:
            raise ValueError("expected at least one segment, got none")
        sizes = {(segment.scene.height, segment.scene.width) for segment in segments}
        if len(sizes) > 1:
            raise ValueError(f"expected scenes of one size, got the sizes {sorted(sizes)}")
        for segment in segments:
            require(segment.length >= 1, "length", segment.length, "an integer >= 1")
            require(segment.start >= 0, "start", segment.start, "an integer >= 0")
        self.segments = tuple(segments)
        self.height, self.width = sizes.pop()
        self.starts = np.cumsum([0, *(segment.length for segment in segments)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def ranges(self) -> list[tuple[int, int]]:
        """Return the range (first, end) of frames of each segment."""
        edges = self.starts.tolist()
        return list(zip(edges[:-1], edges[1:], strict=True))

    def frames(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return frames by number, in any order: ``[n, H, W, 3]`` uint8 RGB.

        Raises:
            ValueError: A number is out of range.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise ValueError(
                f"expected frames 0 to {len(self) - 1}, got {numbers.min()} to {numbers.max()}"
            )
        frames = np.empty((len(numbers), self.height, self.width, 3), dtype=np.uint8)
        places = np.searchsorted(self.starts, numbers, side="right") - 1
        for place in np.unique(places).tolist():
            segment, here = self.segments[place], places == place
            frames[here] = segment.scene.render(numbers[here] - self.starts[place] + segment.start)
        return frames

    def read(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames by ascending number, ``[H, W, 3]`` uint8 each."""
        for start in range(0, len(indices), BLOCK):
            yield from self.frames(indices[start : start + BLOCK])

    def source(self, fps: float = 1.0) -> VideoSource:
        """Return the video as a `VideoSource` of ``fps`` frames per second."""
        return VideoSource(self, fps=fps)

    def write(self, path: str | os.PathLike[str], fps: int = 10) -> None:
        """Encode the video as an H.264 file, frame by frame; height and width must be even.

        Raises:
            ValueError: A side has an odd number of pixels.
        """
        check_writable(self.height, self.width)
        write_video(path, self.read(np.arange(len(self))), fps=fps)


def check_writable(height: int, width: int) -> None:
    """Check that H.264 can store frames of this size.

    Raises:
        ValueError: A side has an odd number of pixels.
    """
    if height % 2 or width % 2:
        raise ValueError(f"expected an even width and height for H.264, got {width}x{height}")


def random_video(
    seed: int,
    frames: int,
    *,
    split: str = "train",
    size: int | tuple[int, int] = 48,
    segments: int | None = None,
    scenes: int = SCENES,
    condition: Callable[[Scene], bool] = lambda scene: True,
) -> SyntheticVideo:
    """Draw a video of random scenes.

    Args:
        seed: The same seed and options give the same video.
        frames: Length of the video in frames.
        split: Split of all scenes.
        size: Frame size in pixels, see `Scene`.
        segments: Number of scenes; by default one per eight frames.
        scenes: Draw from the first ``scenes`` scenes of the split.
        condition: A condition that every scene meets; by default none.

    Raises:
        ValueError: A number is out of range.
    """
    rng = np.random.default_rng((SPLITS.index(check_split(split)), seed, 2))
    lengths = random_lengths(rng, frames, max(1, frames // 8) if segments is None else segments)
    drawn = [find_scene(rng, split, size, condition, scenes) for _ in lengths]
    return SyntheticVideo([random_segment(rng, *pair) for pair in zip(drawn, lengths, strict=True)])


def random_segment(rng: np.random.Generator, scene: Scene, length: int) -> Segment:
    """Draw a segment of a scene that starts at one of its first frames."""
    return Segment(scene, int(rng.integers(MOST_SKIPPED)), length)


def random_lengths(rng: np.random.Generator, frames: int, segments: int) -> list[int]:
    """Draw lengths of at least 2 (1 if there are too few frames) that sum to ``frames``.

    Raises:
        ValueError: There are more segments than frames, or none.
    """
    require(1 <= segments <= frames, "segments", segments, f"1 to {frames}, one frame each")
    minimum = 2 if 2 * segments <= frames else 1
    shares = rng.dirichlet(np.full(segments, 2.0))
    return [minimum + int(extra) for extra in rng.multinomial(frames - minimum * segments, shares)]
