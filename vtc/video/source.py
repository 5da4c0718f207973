"""A video as a sequence of sampled frames, read in chunks."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtc.video.decord_reader import DecordReader
from vtc.video.errors import VideoError
from vtc.video.keeping_reader import KeepingReader
from vtc.video.memory_reader import MemoryReader
from vtc.video.pyav_reader import PyAVReader
from vtc.video.reader import Reader, VideoInfo
from vtc.video.run_ahead import run_ahead
from vtc.video.samples import Samples
from vtc.video.sampling import sample
from vtc.video.sequence_reader import FrameSequence, SequenceReader

_READERS: dict[str, Callable[[Path], Reader]] = {"decord": DecordReader, "pyav": PyAVReader}
_CHUNK_BYTES = 64 * 2**20
_DEFAULT_FPS = 1.0


@dataclass(frozen=True)
class Chunk:
    """Some sampled frames.

    Attributes:
        indices: ``[n]`` int64, which samples they are.
        frames: ``[n, H, W, 3]`` uint8 RGB, full resolution, after rotation.
        timestamps: ``[n]`` float64 seconds, when the sampled frames are shown.
        ok: ``[n]`` bool; False where the frame is damaged, or could not be decoded and the last
            good sample before it (the first good one, at the start) stands in.
    """

    indices: NDArray[np.int64]
    frames: NDArray[np.uint8]
    timestamps: NDArray[np.float64]
    ok: NDArray[np.bool_]


class VideoSource:
    """The sampled frames of a video, read in chunks as often as needed.

    t = 0 is the first shown frame, and a sample at time t is the last frame shown at or before t.
    A frame is sampled once at most, so there are never more samples than frames. The file is
    indexed once and opened anew for each pass over it; nothing stays open in between.

    Args:
        video: A path; an array ``[N, H, W, 3]`` uint8 (numpy or CPU tensor); a list of PIL images
            or of ``[H, W, 3]`` uint8 arrays; a `FrameSequence`, which gives frames by number; or
            a VideoSource, which is shared as it is.
        fps: Samples a second, at ``k / fps``. For all but files, how many of their frames make
            a second; all are samples. None: every frame of the file.
        frames: This many evenly spaced samples instead, at ``(k + 0.5) * duration / frames``.
        max_frames: Where there would be more samples, this many evenly spaced ones instead.
        reader: ``"pyav"`` (exact) or ``"decord"`` (refuses files that it would get wrong).
        keep: Bytes of decoded frames that may stay in memory after they were read, the first ones
            first. A model reads the frames of a file twice, for the selection and for the vision
            tower: what is kept need not be decoded again. Arrays and lists are in memory anyway.

    Raises:
        VideoError: The file cannot be read; one line says why.
        ValueError: An option is out of range, options exclude one another, or an array is not
            ``[N, H, W, 3]`` uint8.
        TypeError: ``video`` or an option is of another kind.
        ImportError: ``reader="decord"`` and decord is not installed.

    >>> source = VideoSource(np.zeros((4, 2, 2, 3), dtype=np.uint8), fps=2.0)
    >>> source.timestamps
    array([0. , 0.5, 1. , 1.5])
    """

    name: str
    """File name, or "array of 64 frames"."""
    info: VideoInfo
    timestamps: NDArray[np.float64]
    """``[N]`` seconds at which the sampled frames are shown, strictly ascending."""

    def __init__(
        self,
        video: Any,
        *,
        fps: float | None = _DEFAULT_FPS,
        frames: int | None = None,
        max_frames: int | None = None,
        reader: str = "pyav",
        keep: int = 0,
    ) -> None:
        _check_options(fps, frames, max_frames, reader)
        _check_count("keep", keep, 0)
        if isinstance(video, VideoSource):
            unsampled = (fps, frames, max_frames) in {(_DEFAULT_FPS, None, None), (None,) * 3}
            if not unsampled or keep:
                raise ValueError(
                    "a VideoSource is sampled already: give fps, frames, max_frames and keep to it"
                )
            self.__dict__ = video.__dict__  # shared, so that warnings found by one show in both
            return
        if isinstance(video, str) and "://" in video:
            raise VideoError(f"{video}: is an address; download the video and give the file")
        if isinstance(video, (str, os.PathLike)):
            if frames is not None and fps not in (None, _DEFAULT_FPS):
                raise ValueError(f"fps={fps} and frames={frames} exclude one another: give one")
            self._reader: Reader = _READERS[reader](Path(video))
        else:
            kind = SequenceReader if isinstance(video, FrameSequence) else MemoryReader
            self._reader = kind(video, fps)
            fps = None
        self._rereader = self._reader
        if keep and not self._reader.in_memory:
            self._reader = KeepingReader(self._reader, keep)
        self.name = self._reader.name
        self.info = self._reader.info
        positions = sample(
            self._reader.times,
            self.info.duration,
            fps=fps,
            frames=frames,
            max_frames=max_frames,
        )
        self.timestamps = self._reader.times[positions]
        self._positions = positions
        self._samples = Samples(self._reader, positions)

    def __len__(self) -> int:
        return len(self.timestamps)

    def __repr__(self) -> str:
        return (
            f"VideoSource({self.name!r}, {len(self)} samples of {self.info.frame_count} frames, "
            f"{self.width}x{self.height}, {self.duration:.1f} s)"
        )

    @property
    def width(self) -> int:
        return self.info.width

    @property
    def height(self) -> int:
        return self.info.height

    @property
    def duration(self) -> float:
        return self.info.duration

    @property
    def in_memory(self) -> bool:
        """Whether the frames are an array or a list, so that reading them costs nothing."""
        return self._reader.in_memory

    def without_kept_frames(self) -> VideoSource:
        """Return a source of the same samples that holds none of the frames that this one keeps."""
        source = copy.copy(self)
        source._reader = self._rereader
        source._samples = Samples(self._rereader, self._positions)
        return source

    @property
    def warnings(self) -> list[str]:
        """What is lost or odd, one sentence each; grows while the video is read."""
        return [*self._reader.warnings, *self._samples.warnings]

    def chunks(
        self, indices: Sequence[int] | None = None, *, size: int = 32, prefetch: int = 2
    ) -> Generator[Chunk, None, None]:
        """Read samples in order.

        At most ``prefetch + 2`` chunks are alive, whatever the consumer does; closing the
        generator ends the thread behind it.

        Args:
            indices: Which samples, strictly ascending; all by default.
            size: Frames a chunk; fewer where they would take more than about 64 MB.
            prefetch: Chunks that a thread reads ahead; 0 reads in the caller's thread, as is
                always done for arrays and lists.

        Raises:
            ValueError: ``indices`` are not strictly ascending or out of range.
            VideoError: None of the samples can be decoded.
        """
        chosen = self._check_indices(indices)
        _check_count("size", size, 1)
        _check_count("prefetch", prefetch, 0)
        size = max(1, min(size, _CHUNK_BYTES // (self.width * self.height * 3)))
        return run_ahead(
            self._chunks(chosen, size), depth=0 if self._reader.in_memory else prefetch
        )

    def frames(self, indices: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Read a few samples (all by default) at once: ``[n, H, W, 3]`` uint8 RGB."""
        chosen = self._check_indices(indices)
        frames = np.empty((len(chosen), self.height, self.width, 3), dtype=np.uint8)
        with closing(self._samples.read(chosen)) as pictures:
            for k, picture in enumerate(pictures):
                frames[k] = picture.pixels
        return frames

    def _chunks(self, samples: NDArray[np.int64], size: int) -> Generator[Chunk, None, None]:
        with closing(self._samples.read(samples)) as pictures:
            for start in range(0, len(samples), size):
                part = samples[start : start + size]
                frames = np.empty((len(part), self.height, self.width, 3), dtype=np.uint8)
                ok = np.empty(len(part), dtype=bool)
                for k, picture in enumerate(islice(pictures, len(part))):
                    frames[k] = picture.pixels
                    ok[k] = picture.intact
                yield Chunk(part, frames, self.timestamps[part], ok)

    def _check_indices(self, indices: Sequence[int] | None) -> NDArray[np.int64]:
        if indices is None:
            return np.arange(len(self), dtype=np.int64)
        given = np.asarray(indices)
        if given.size == 0:
            return np.zeros(0, dtype=np.int64)
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise TypeError(f"indices={indices!r}: a sequence of whole numbers is needed")
        if given.min() < 0 or given.max() >= len(self):
            raise ValueError(
                f"indices from {given.min()} to {given.max()}: {self.name} has {len(self)} "
                f"samples, allowed are 0 to {len(self) - 1}"
            )
        if np.any(np.diff(given) <= 0):
            raise ValueError("indices must be strictly ascending, because videos are read forwards")
        return given.astype(np.int64)


def _check_options(
    fps: float | None, frames: int | None, max_frames: int | None, reader: str
) -> None:
    if fps is not None:
        if not isinstance(fps, Real) or isinstance(fps, bool):
            raise TypeError(f"fps={fps!r}: a number is needed, or None for every frame")
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps={fps!r}: allowed is a number above 0, or None for every frame")
    for option, value in (("frames", frames), ("max_frames", max_frames)):
        if value is not None:
            _check_count(option, value, 1)
    if reader not in _READERS:
        raise ValueError(f"reader={reader!r}: allowed are {', '.join(map(repr, _READERS))}")


def _check_count(option: str, value: int, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{option}={value!r}: a whole number is needed")
    if value < least:
        raise ValueError(f"{option}={value!r}: allowed is a whole number of at least {least}")
