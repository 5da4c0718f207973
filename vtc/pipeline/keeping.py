"""Keep frames of the first pass over a video, so that the second pass need not decode them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.video import VideoSource

MOST_BYTES = 10**9
SHARE_OF_FREE = 0.1
"""The largest share of the free memory that frames of one video take."""
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


class FrameKeeper:
    """The first frames of a video, as the vision tower's processor resizes them.

    A frame of 384 x 384 takes 0.44 MB, one of 1280 x 720 2.8 MB. Frames keep their full size if
    that is smaller, or if the processor gives different pixels for a resized frame.

    Args:
        adapter: The adapter of the model.
        processor: The processor of the model.
        source: The video.
        limit: The maximum number of bytes to keep.
    """

    def __init__(
        self, adapter: VideoAdapter, processor: Any, source: VideoSource, limit: int
    ) -> None:
        self._adapter, self._processor, self._total = adapter, processor, len(source)
        self._resizer = _without_normalisation(processor)
        step = adapter.frames_per_slice
        generator = torch.Generator().manual_seed(0)
        shape = (step, source.height, source.width, 3)
        probe = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        small = self._resize(probe)
        self._resizes = small.nbytes < probe.nbytes and self._is_equal(small, probe)
        kept = small if self._resizes else probe
        fits = limit * step // kept.nbytes
        self.room = len(source) if fits >= len(source) else fits - fits % step
        """The number of frames that fit, counted from the first frame."""
        self._frames = torch.empty(self.room, *kept.shape[1:], dtype=torch.uint8)
        self._count = 0

    def __len__(self) -> int:
        """Return the number of kept frames, which start with the first frame."""
        return self._count

    @property
    def nbytes(self) -> int:
        """The bytes of the kept frames."""
        return self._frames[: self._count].nbytes

    def keep(self, frames: Tensor) -> None:
        """Keep as many of the next frames ``[n, H, W, 3]`` as fit."""
        frames = frames[: self.room - self._count]
        if len(frames):
            end = self._count + len(frames)
            self._frames[self._count : end] = self._resized(frames)
            self._count = end

    def join(self, numbers: Sequence[int], decoded: Iterator[Tensor]) -> Tensor:
        """Return frames ``[n, h, w, 3]``, kept ones joined with decoded ones.

        Args:
            numbers: ``[n]``, the frames' numbers, ascending.
            decoded: Yields the frames that are not kept, ``[H, W, 3]`` each.
        """
        kept = [number for number in numbers if number < self._count]
        others = list(islice(decoded, len(numbers) - len(kept)))
        if not others:
            return self._frames[kept]
        rest = torch.stack(others)
        return torch.cat([self._frames[kept], self._resized(rest)]) if kept else rest

    def _resized(self, frames: Tensor) -> Tensor:
        return self._resize(frames) if self._resizes else frames

    def _resize(self, frames: Tensor) -> Tensor:
        """Return frames ``[n, h, w, 3]`` uint8 in the size of the processor."""
        if (step := self._adapter.frames_per_slice) > 1:  # fill each slice with one frame
            frames = frames.repeat_interleave(step, dim=0)
        pixels = self._adapter.preprocess(self._resizer, frames, self._total)
        return self._adapter.frames(self._resizer, pixels)

    def _is_equal(self, small: Tensor, frames: Tensor) -> bool:
        """Return whether resized frames give exactly the pixels of full-size frames."""
        of_small, of_frames = self._pixels(small), self._pixels(frames)
        return of_small.keys() == of_frames.keys() and all(
            torch.equal(value, of_frames[name]) for name, value in of_small.items()
        )

    def _pixels(self, frames: Tensor) -> dict[str, Tensor]:
        return self._adapter.preprocess(self._processor, frames, self._total)


def _without_normalisation(processor: Any) -> Any:
    """Copy a processor so that it only resizes and crops; its pixels are then whole numbers."""
    resizer = copy.copy(processor)
    for name in ("image_processor", "video_processor"):
        if (settings := getattr(processor, name, None)) is not None:
            settings = copy.copy(settings)
            settings.do_rescale = settings.do_normalize = False
            setattr(resizer, name, settings)
    return resizer


def default_limit() -> int:
    """Return the default limit in bytes: 1 GB, or a tenth of the free memory if that is less."""
    return min(MOST_BYTES, int(SHARE_OF_FREE * free_memory()))


def free_memory() -> int:
    """Return the bytes that this process can still allocate, within its container's limit."""
    free = [_of_system()]
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        if most != "max":
            free.append(int(most) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or an old one
        pass
    return max(0, min(free))


def _of_system() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(MOST_BYTES / SHARE_OF_FREE)
