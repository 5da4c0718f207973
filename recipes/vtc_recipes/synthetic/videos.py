"""Synthetic videos: segments of scenes one after another, drawn when they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtc.video import VideoSource
from vtc.video.writing import write_video
from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.scenes import SCENES, Scene, check_split, find_scene

BLOCK = 32
"""Frames that are drawn at a time; only these are in memory."""
MOST_SKIPPED = 16
"""A random segment begins at one of this many first frames of its scene."""


@dataclass(frozen=True)
class Segment:
    """Some frames of a scene: ``length`` of them from frame ``start`` on."""

    scene: Scene
    start: int
    length: int

    @property
    def spark(self) -> tuple[int, int] | None:
        """The frames of the segment, first and end, that show the scene's spark; None for none."""
        if self.scene.spark is None:
            return None
        first = max(self.scene.spark.start - self.start, 0)
        end = min(self.scene.spark.start + self.scene.spark.length - self.start, self.length)
        return (first, end) if first < end else None


class SyntheticVideo:
    """Segments of scenes, one after another; nothing is drawn before it is read.

    ``VideoSource(video)`` and ``vtc.ask(model, processor, video, ...)`` take it as it is, as they
    take every `vtc.video.FrameSequence`.

    Args:
        segments: At least one, all of one frame size.

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
            raise ValueError("a video without segments: at least one is needed")
        sizes = {(segment.scene.height, segment.scene.width) for segment in segments}
        if len(sizes) > 1:
            raise ValueError(f"scenes of the sizes {sorted(sizes)}: all must be of one size")
        if min(segment.length for segment in segments) < 1 or min(s.start for s in segments) < 0:
            raise ValueError("a segment starts at frame 0 or later and holds at least one frame")
        self.segments = tuple(segments)
        self.height, self.width = sizes.pop()
        self.starts = np.cumsum([0, *(segment.length for segment in segments)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def ranges(self) -> list[tuple[int, int]]:
        """First frame and end of each segment."""
        edges = self.starts.tolist()
        return list(zip(edges[:-1], edges[1:], strict=True))

    def frames(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames by number, in any order: ``[n, H, W, 3]`` uint8 RGB."""
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise ValueError(
                f"frames {wanted.min()} to {wanted.max()}: allowed are 0 to {len(self) - 1}"
            )
        frames = np.empty((len(wanted), self.height, self.width, 3), dtype=np.uint8)
        numbers = np.searchsorted(self.starts, wanted, side="right") - 1
        for number in np.unique(numbers).tolist():
            segment, here = self.segments[number], numbers == number
            frames[here] = segment.scene.render(wanted[here] - self.starts[number] + segment.start)
        return frames

    def read(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Frames by ascending number, one ``[H, W, 3]`` after another."""
        for start in range(0, len(indices), BLOCK):
            yield from self.frames(indices[start : start + BLOCK])

    def source(self, fps: float = 1.0) -> VideoSource:
        """The video as everything in vtc reads it; ``fps`` of its frames make a second."""
        return VideoSource(self, fps=fps)

    def write(self, path: str | os.PathLike[str], fps: int = 10) -> None:
        """Encode as an H.264 file, frame by frame; height and width must be even.

        Raises:
            ValueError: A side has an odd number of pixels.
        """
        check_writable(self.height, self.width)
        write_video(path, self.read(np.arange(len(self))), fps=fps)


def check_writable(height: int, width: int) -> None:
    """Refuse frames that H.264 cannot hold.

    Raises:
        ValueError: A side has an odd number of pixels.
    """
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width}x{height}: H.264 needs an even width and height")


def random_video(
    seed: int,
    frames: int,
    *,
    split: str = "train",
    size: int | tuple[int, int] = 48,
    segments: int | None = None,
    scenes: int = SCENES,
    wanted: Callable[[Scene], bool] = lambda scene: True,
) -> SyntheticVideo:
    """A video of random scenes.

    Args:
        seed: The same seed and options give the same video.
        frames: How many.
        split: Of all its scenes.
        size: Of a frame, as of a `Scene`.
        segments: How many scenes follow one another; one for every eight frames by default.
        scenes: Draw from the first so many scenes of the split.
        wanted: Which scenes may be in it; all by default.

    Raises:
        ValueError: A number is out of range.
    """
    rng = np.random.default_rng((SPLITS.index(check_split(split)), seed, 2))
    lengths = random_lengths(rng, frames, max(1, frames // 8) if segments is None else segments)
    drawn = [find_scene(rng, split, size, wanted, scenes) for _ in lengths]
    return SyntheticVideo([random_segment(rng, *pair) for pair in zip(drawn, lengths, strict=True)])


def random_segment(rng: np.random.Generator, scene: Scene, length: int) -> Segment:
    """Some frames of a scene, from one of its first frames on."""
    return Segment(scene, int(rng.integers(MOST_SKIPPED)), length)


def random_lengths(rng: np.random.Generator, frames: int, segments: int) -> list[int]:
    """Lengths of at least 2 (1 where frames are too few) that add up to ``frames``.

    Raises:
        ValueError: There are more segments than frames, or none.
    """
    if not 1 <= segments <= frames:
        raise ValueError(f"{segments} segments of {frames} frames: each needs at least one frame")
    least = 2 if 2 * segments <= frames else 1
    shares = rng.dirichlet(np.full(segments, 2.0))
    return [least + int(more) for more in rng.multinomial(frames - least * segments, shares)]
