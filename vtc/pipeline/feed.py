"""The frames of one video, from a processor's tensors or from a lazy source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.pages.pictures import Pictures
from vtc.pipeline.keeping import FrameKeeper, default_limit
from vtc.video.run_ahead import run_ahead

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.report import CacheUse
    from vtc.video import Chunk, VideoSource


ENCODER_CHUNK = 32
"""Frames decoded and given to the frame encoder at a time."""

CHUNKS_AHEAD = 2
"""Chunks that a thread decodes ahead."""

Pixels = dict[str, Tensor]
"""The vision tower's inputs for some slices, by argument name."""


@dataclass(frozen=True)
class VideoRequest:
    """A video that is decoded only while it is read; made by ``vtc.prepare_inputs``.

    Attributes:
        source: The frames.
        processor: The stock processor of the model.
    """

    source: VideoSource
    processor: Any = field(repr=False)


class VideoFeed(ABC):
    """The slices of one video in chunks, for the frame encoder and for the vision tower."""

    name: str
    span: VideoSpan
    frames: int
    """How many frames the video has; the last slice may hold fewer than the others."""
    timestamps: Tensor | None
    """``[N]`` float64 seconds of each slice's first frame; None if unknown."""

    source: VideoSource | None = None
    """The lazy source of the frames."""
    processor: Any = None
    """The processor that turns the frames of `source` into pixels."""
    cache_uses: tuple[CacheUse, ...] = ()
    """The uses of the cache for this video, for the report."""

    @property
    def video(self) -> object:
        """A key that is equal for feeds that give the same frames to the same processor."""
        return id(self)

    decoded: int | None = None
    """Frames decoded so far, over all passes; None if nothing is decoded."""

    @property
    def kept(self) -> int:
        """The number of frames of the first pass that are kept in memory."""
        return 0

    def release(self) -> None:  # noqa: B027 - optional
        """Free the kept frames."""

    def decoding_ahead(self) -> AbstractContextManager[object]:
        """Prefetch the frames for `rgb` in a background thread."""
        return nullcontext()

    @abstractmethod
    def rgb(self) -> Iterator[Tensor]:
        """Yield one frame per slice for the selector, in chunks ``[n, H, W, 3]`` uint8 RGB."""

    @abstractmethod
    def rgb_of(self, slices: Sequence[int]) -> Iterator[Tensor]:
        """The same for some slices, ascending."""

    @abstractmethod
    def pixels(
        self, slices: Sequence[int], size: int
    ) -> Generator[tuple[Tensor, Pixels], None, None]:
        """Yield some slices in chunks: their numbers ``[n]`` and the vision tower's inputs."""

    @abstractmethod
    def pictures(self, slices: Sequence[int]) -> Pictures:
        """Return small pictures of the first frames of some slices, ascending."""

    @property
    def warnings(self) -> list[str]:
        """Warnings of frames that could not be read as requested."""
        return []

    @property
    def seconds_per_slice(self) -> float | None:
        """The mean time from one slice to the next; None if unknown."""
        times = self.timestamps
        if times is None or len(times) < 2:
            return None
        return float(times[-1] - times[0]) / (len(times) - 1)


class TensorFeed(VideoFeed):
    """A video that the stock processor made into tensors."""

    def __init__(
        self,
        adapter: VideoAdapter,
        inputs: Mapping[str, Any],
        span: VideoSpan,
        video: int,
        processor: Any,
    ) -> None:
        self.name = f"video {video} of the batch"
        self.span = span
        self.frames = len(span) * span.frames_per_slice
        self.timestamps = None
        self._adapter, self._inputs = adapter, inputs
        self._number = video if span.number is None else span.number
        self._processor = processor

    def rgb(self) -> Iterator[Tensor]:
        yield from self.rgb_of(range(len(self.span)))

    def rgb_of(self, slices: Sequence[int]) -> Iterator[Tensor]:
        if self._processor is None:
            raise ValueError(
                "the selector reads frames, which are recovered from the processor's pixels with "
                "its mean and std: pass processor=... to vtc.wrap"
            )
        for _, pixels in self.pixels(slices, ENCODER_CHUNK):
            yield self._adapter.frames(self._processor, pixels)

    def pixels(
        self, slices: Sequence[int], size: int
    ) -> Generator[tuple[Tensor, Pixels], None, None]:
        for start in range(0, len(slices), size):
            chunk = list(slices[start : start + size])
            yield torch.tensor(chunk), self._adapter.pixels(self._inputs, self._number, chunk)

    def pictures(self, slices: Sequence[int]) -> Pictures:
        if self._processor is None:
            return Pictures()
        step = self.span.frames_per_slice
        chunks = self.pixels(slices, ENCODER_CHUNK)
        frames = [self._adapter.frames(self._processor, pixels).cpu() for _, pixels in chunks]
        pixels = (frame.numpy() for chunk in frames for frame in chunk)
        return Pictures(zip((number * step for number in slices), pixels, strict=True))


class SourceFeed(VideoFeed):
    """A video that is decoded chunk by chunk."""

    def __init__(self, adapter: VideoAdapter, request: VideoRequest, span: VideoSpan) -> None:
        self.name = request.source.name
        self.span = span
        self.frames = len(request.source)
        self.timestamps = torch.as_tensor(request.source.timestamps)[:: span.frames_per_slice]
        self.source: VideoSource = request.source
        self.processor = request.processor
        self._adapter, self._request = adapter, request
        self._begun: Generator[Tensor, None, None] | None = None
        self._keeper: FrameKeeper | None = None
        self.decoded = None if self.source.info.container == "memory" else 0

    @property
    def video(self) -> object:
        return id(self._request.source), id(self._request.processor)

    @contextmanager
    def decoding_ahead(self) -> Iterator[None]:
        self._begin()
        try:
            yield
        finally:
            self._end()

    def rgb(self) -> Iterator[Tensor]:
        try:
            yield from self._begin()
        finally:  # the next call starts from the first frame
            self._end()

    def rgb_of(self, slices: Sequence[int]) -> Iterator[Tensor]:
        numbers = [number * self.span.frames_per_slice for number in slices]
        with closing(self._decode(numbers, ENCODER_CHUNK, CHUNKS_AHEAD)) as chunks:
            for chunk in chunks:
                yield torch.from_numpy(chunk.frames)

    def _begin(self) -> Generator[Tensor, None, None]:
        if self._begun is None:
            depth = 0 if self.source.in_memory else CHUNKS_AHEAD
            self._begun = run_ahead(self._first_pass(), depth)
        return self._begun

    def _end(self) -> None:
        if self._begun is not None:
            self._begun.close()
            self._begun = None

    def _first_pass(self) -> Generator[Tensor, None, None]:
        """Yield the first frame of each slice, in chunks; keep frames for the vision tower."""
        source, step = self.source, self.span.frames_per_slice
        size, kept = source.frames_per_chunk(ENCODER_CHUNK), self._keeper
        if kept is None and not source.in_memory:
            limit = default_limit() if source.keep is None else source.keep
            kept = FrameKeeper(self._adapter, self._request.processor, source, limit)
            self._keeper = kept
        room = 0 if kept is None or len(kept) else kept.room
        numbers = [*range(room), *range(-(-room // step) * step, self.frames, step)]
        waiting: list[Tensor] = []
        with closing(self._decode(numbers, size, prefetch=0)) as chunks:
            for chunk in chunks:
                frames = torch.from_numpy(chunk.frames)
                if room and kept is not None:
                    kept.keep(frames)
                if step == 1:
                    yield frames
                    continue
                waiting += frames[torch.from_numpy(chunk.indices) % step == 0]
                if len(waiting) >= size:
                    yield torch.stack(waiting[:size])
                    del waiting[:size]
        if waiting:
            yield torch.stack(waiting)

    def _decode(
        self, numbers: Sequence[int], size: int, prefetch: int
    ) -> Generator[Chunk, None, None]:
        with closing(self.source.chunks(numbers, size=size, prefetch=prefetch)) as chunks:
            for chunk in chunks:
                if self.decoded is not None:
                    self.decoded += len(chunk.frames)
                yield chunk

    def pixels(
        self, slices: Sequence[int], size: int
    ) -> Generator[tuple[Tensor, Pixels], None, None]:
        step = self.span.frames_per_slice
        indices = [
            frame
            for number in slices
            for frame in range(number * step, min((number + 1) * step, self.frames))
        ]
        done = 0
        with closing(self._second_pass(indices, size * step)) as chunks:
            for frames in _regroup(chunks, step):
                count = -(-len(frames) // step)
                numbers = torch.as_tensor(list(slices[done : done + count]))
                done += count
                processor = self._request.processor
                yield numbers, self._adapter.preprocess(processor, frames, self.frames)

    def _second_pass(self, indices: Sequence[int], size: int) -> Generator[Tensor, None, None]:
        """Yield frames in chunks: the kept ones from memory, the others decoded again."""
        count = 0 if self._keeper is None else len(self._keeper)
        missing = [index for index in indices if index >= count]
        if self._keeper is None or len(missing) == len(indices):
            with closing(self._decode(indices, size, CHUNKS_AHEAD)) as chunks:
                for chunk in chunks:
                    yield torch.from_numpy(chunk.frames)
            return
        size = self.source.frames_per_chunk(size)
        decoding = self._decode(missing, size, CHUNKS_AHEAD if missing else 0)
        with closing(decoding) as chunks:
            decoded = (torch.from_numpy(frame) for chunk in chunks for frame in chunk.frames)
            for start in range(0, len(indices), size):
                yield self._keeper.join(indices[start : start + size], decoded)

    @property
    def kept(self) -> int:
        return 0 if self._keeper is None else len(self._keeper)

    def release(self) -> None:
        self._keeper = None

    def pictures(self, slices: Sequence[int]) -> Pictures:
        source, step = self._request.source, self.span.frames_per_slice
        if not source.in_memory:  # read when they are shown
            return Pictures(source=source)
        numbers = [number * step for number in slices]
        return Pictures((number, source.frames([number])[0]) for number in numbers)

    @property
    def warnings(self) -> list[str]:
        request = self._request
        return [
            *request.source.warnings,
            *self._adapter.notes(request.processor, request.source),
        ]


def _regroup(chunks: Iterable[Tensor], step: int) -> Iterator[Tensor]:
    """Cut chunks of frames at multiples of ``step``; the remainder goes into the next chunk."""
    left: Tensor | None = None
    for frames in chunks:
        frames = frames if left is None else torch.cat([left, frames])
        whole = len(frames) - len(frames) % step
        left = frames[whole:].clone() if whole < len(frames) else None
        if whole:
            yield frames[:whole]
    if left is not None:
        yield left
