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

from vtc.cache.entry import Key
from vtc.cache.hashing import bytes_hash
from vtc.cache.video import VideoCache, cache_folder
from vtc.video.decord_reader import DecordReader
from vtc.video.files import as_path
from vtc.video.memory_reader import MemoryReader
from vtc.video.pyav_reader import PyAVReader
from vtc.video.reader import Reader, VideoInfo
from vtc.video.run_ahead import run_ahead
from vtc.video.samples import Samples
from vtc.video.sampling import sample
from vtc.video.sequence_reader import FrameSequence, SequenceReader
from vtc.video.watched_reader import WatchedReader

_READERS: dict[str, Callable[[Path], Reader]] = {"decord": DecordReader, "pyav": PyAVReader}
_CHUNK_BYTES = 64 * 2**20
_DEFAULT_FPS = 1.0
_MIN_FPS, _MAX_FPS, _MAX_COUNT = 1e-6, 1e6, 2**31 - 1
_MAX_BYTES = 2**63 - 1


@dataclass(frozen=True)
class Chunk:
    """Some sampled frames.

    Attributes:
        indices: ``[n]`` int64, the numbers of the samples.
        frames: ``[n, H, W, 3]`` uint8 RGB, full resolution, after rotation.
        timestamps: ``[n]`` float64 seconds, the presentation times of the sampled frames.
        ok: ``[n]`` bool; False if the frame is damaged, or could not be decoded and is replaced
            by the last good sample before it (at the start, the first good one).
    """

    indices: NDArray[np.int64]
    frames: NDArray[np.uint8]
    timestamps: NDArray[np.float64]
    ok: NDArray[np.bool_]


class VideoSource:
    """The sampled frames of a video, read in chunks as often as needed.

    t = 0 is the first shown frame, and a sample at time t is the last frame shown at or before t.
    A frame is sampled at most once, so there are never more samples than frames. The file is
    indexed once and reopened for each pass; nothing stays open in between, and a file that changed
    in between is an error. A source can be pickled.

    Args:
        video: A path or ``file://`` address; an array ``[N, H, W, 3]`` uint8 (numpy or CPU
            tensor); a list of PIL images or of ``[H, W, 3]`` uint8 arrays; a `FrameSequence`, which
            returns frames by number; or a VideoSource, which is shared.
        fps: Samples per second, at ``k / fps``; 1e-6 to 1e6. None: every frame of the file. For
            arrays, lists and sequences it is their frame rate; all their frames are samples.
        frames: Take this many evenly spaced samples instead, at
            ``(k + 0.5) * duration / frames``. In a video with gaps they are spread over the
            existing frames.
        max_frames: If there would be more samples, take this many evenly spaced ones instead.
        reader: ``"pyav"`` (exact) or ``"decord"`` (refuses files that it reads incorrectly).
        keep: The maximum number of bytes of decoded frames that a call keeps in memory. A model
            reads a file twice, for the selection and for the vision tower; frames of the first
            pass are kept in the tower's size, and the second pass decodes only the others. None:
            1 GB, or a tenth of the free memory if that is less. 0: keep none.
        cache: A folder in which a model stores its results for a file, so that later questions
            about it need not compute them again; True for ``~/.cache/vtc``.
        cache_tower: Cache the vision tower's output too, in bfloat16, so that later questions
            decode nothing. It is large: 1.7 MB per frame in LLaVA-OneVision.

    Raises:
        VideoError: The file cannot be read; the message gives the reason in one line.
        ValueError: An option is out of range, two options exclude each other, or an array is not
            ``[N, H, W, 3]`` uint8.
        TypeError: ``video`` or an option has the wrong type.
        ImportError: ``reader="decord"`` without decord installed.

    >>> source = VideoSource(np.zeros((4, 2, 2, 3), dtype=np.uint8), fps=2.0)
    >>> source.timestamps
    array([0. , 0.5, 1. , 1.5])
    """

    def __init__(
        self,
        video: Any,
        fps: float | None = _DEFAULT_FPS,
        *,
        frames: int | None = None,
        max_frames: int | None = None,
        reader: str = "pyav",
        keep: int | None = None,
        cache: str | os.PathLike[str] | bool | None = None,
        cache_tower: bool = False,
    ) -> None:
        _check_options(fps, frames, max_frames, reader)
        if keep is not None:
            _check_count("keep", keep, 0, _MAX_BYTES)
        self.keep = keep
        self._reader: Reader
        self._samples: Samples
        self._cache: VideoCache | None = None
        folder = None if cache is None or cache is False else cache_folder(cache)
        if cache_tower and folder is None:
            raise ValueError(f"expected a cache with cache_tower=True, got cache={cache!r}")
        if isinstance(video, VideoSource):
            is_sampled_again = (fps, frames, max_frames) not in (
                (_DEFAULT_FPS, None, None),
                (None, None, None),
            )
            if is_sampled_again or keep is not None or folder:
                raise ValueError(
                    "this VideoSource is sampled already; pass fps, frames, max_frames, keep and "
                    "cache when it is made"
                )
            # Share the samples, so that both report the same warnings.
            self._reader, self._samples = video._reader, video._samples
            self._cache, self.keep = video._cache, video.keep
            return
        if isinstance(video, (str, os.PathLike)):
            if frames is not None and fps not in (None, _DEFAULT_FPS):
                raise ValueError(f"expected either fps or frames, got fps={fps}, frames={frames}")
            self._reader = _READERS[reader](as_path(video))
        else:
            if folder:
                raise ValueError(
                    f"expected a file with cache={cache!r}, got {type(video).__name__}: the cache "
                    "finds entries by the content of a file"
                )
            kind = SequenceReader if isinstance(video, FrameSequence) else MemoryReader
            self._reader = kind(video, fps)
            if kind is SequenceReader and frames is None and max_frames is None:
                self._cache = getattr(video, "cache", None)
            fps = None
        positions = sample(
            self._reader.times,
            self.info.duration,
            fps=fps,
            frames=frames,
            max_frames=max_frames,
        )
        self._samples = Samples(self._reader, positions)
        if folder:
            sampling: Key = {"fps": fps, "frames": frames, "max_frames": max_frames}
            timestamps = bytes_hash(self.timestamps.tobytes())
            key: Key = {"reader": reader, "timestamps": timestamps}
            self._cache = VideoCache(folder, as_path(video).absolute(), key, sampling, cache_tower)

    def __len__(self) -> int:
        return len(self.timestamps)

    def __repr__(self) -> str:
        return (
            f"VideoSource({self.name!r}, {len(self)} samples of {self.info.frame_count} frames, "
            f"{self.width}x{self.height}, {self.duration:.1f} s)"
        )

    @property
    def name(self) -> str:
        """The name of the file, or "array of 64 frames"."""
        return self._reader.name

    @property
    def info(self) -> VideoInfo:
        """Size, rate, codec and other metadata."""
        return self._reader.info

    @property
    def timestamps(self) -> NDArray[np.float64]:
        """``[N]`` seconds, the presentation times of the sampled frames, strictly ascending."""
        return self._samples.timestamps

    @property
    def width(self) -> int:
        """The width in pixels, after rotation."""
        return self.info.width

    @property
    def height(self) -> int:
        """The height in pixels, after rotation."""
        return self.info.height

    @property
    def duration(self) -> float:
        """Seconds from the first shown frame to the end of the last one."""
        return self.info.duration

    @property
    def in_memory(self) -> bool:
        """Whether the frames are an array or a list, so that reading them costs nothing."""
        return self._reader.in_memory

    @property
    def cache(self) -> VideoCache | None:
        """The cache entries of this video with this sampling; None without a cache."""
        return self._cache

    def watched(self, check: Callable[[], None]) -> VideoSource:
        """Return a source of the same samples that calls ``check`` before it decodes a frame.

        An exception of ``check`` ends the pass. It is called in the decoding thread.
        """
        source = copy.copy(self)
        source._reader = WatchedReader(self._reader, check)
        source._samples = Samples(source._reader, self._samples.positions)
        return source

    @property
    def warnings(self) -> list[str]:
        """One sentence for each loss or oddity; the list grows while the video is read."""
        return [*self._reader.warnings, *self._samples.warnings]

    def chunks(
        self, indices: Sequence[int] | None = None, *, size: int = 32, prefetch: int = 2
    ) -> Generator[Chunk, None, None]:
        """Read samples in order.

        At most ``prefetch + 2`` chunks are alive. Closing the generator ends its thread.

        Args:
            indices: ``[n]``, the samples to read, strictly ascending; all by default.
            size: Frames per chunk, at least 1; fewer if they would take more than about 64 MB.
            prefetch: The number of chunks that a thread reads ahead; 0 reads in the caller's
                thread, as for arrays and lists.

        Raises:
            TypeError: ``indices`` are not whole numbers.
            ValueError: ``indices`` are not strictly ascending or out of range.
            VideoError: None of the samples can be decoded, or the file was changed.
        """
        samples = self._check_indices(indices)
        _check_count("size", size, 1)
        _check_count("prefetch", prefetch, 0)
        size = self.frames_per_chunk(size)
        return run_ahead(
            self._chunks(samples, size), depth=0 if self._reader.in_memory else prefetch
        )

    def frames_per_chunk(self, size: int) -> int:
        """Return the number of frames per chunk: ``size``, or fewer if frames are large."""
        return max(1, min(size, _CHUNK_BYTES // (self.width * self.height * 3)))

    def frames(self, indices: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Read some samples (all by default) into one array: ``[n, H, W, 3]`` uint8 RGB.

        ``indices`` and the exceptions are those of `chunks`.
        """
        samples = self._check_indices(indices)
        frames = np.empty((len(samples), self.height, self.width, 3), dtype=np.uint8)
        with closing(self._samples.read(samples)) as pictures:
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
        array = np.asarray(indices)
        if array.size == 0:
            return np.zeros(0, dtype=np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TypeError(f"expected indices to be whole numbers, got {indices!r}")
        if array.min() < 0 or array.max() >= len(self):
            raise ValueError(
                f"expected indices from 0 to {len(self) - 1}, the samples of {self.name}, got "
                f"{array.min()} to {array.max()}"
            )
        if np.any(np.diff(array) <= 0):
            raise ValueError(
                f"expected indices in strictly ascending order, since videos are read forwards, "
                f"got {array.tolist()[:8]}"
            )
        return array.astype(np.int64)


def _check_options(
    fps: float | None, frames: int | None, max_frames: int | None, reader: str
) -> None:
    if fps is not None:
        if not isinstance(fps, Real) or isinstance(fps, bool):
            raise TypeError(f"expected fps to be a number, or None for every frame, got {fps!r}")
        if not _MIN_FPS <= fps <= _MAX_FPS:
            raise ValueError(
                f"expected fps to be a number from {_MIN_FPS:g} to {_MAX_FPS:g}, or None for every "
                f"frame, got {fps!r}"
            )
    for option, value in (("frames", frames), ("max_frames", max_frames)):
        if value is not None:
            _check_count(option, value, 1)
    if reader not in _READERS:
        raise ValueError(f"expected reader to be 'pyav' or 'decord', got {reader!r}")


def _check_count(option: str, value: int, least: int, most: int = _MAX_COUNT) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"expected {option} to be a whole number, got {value!r}")
    if not least <= value <= most:
        bound = f"of at least {least}" if value < least else f"of at most {most}"
        raise ValueError(f"expected {option} to be a whole number {bound}, got {value!r}")
