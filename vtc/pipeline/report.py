"""What a call did: frames, keyframes, tokens, seconds and bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vtc.interfaces.frame_selector import Selection
    from vtc.pages.pictures import Pictures
    from vtc.pages.timeline import Mark

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the frames done and the frames in all."""
Watch = Callable[[str], AbstractContextManager[None]]
"""Makes the context in which a stage of the given name runs."""

_watch: ContextVar[Watch | None] = ContextVar("vtc_watch", default=None)


@dataclass(frozen=True)
class Keyframe:
    """A frame that keeps all its tokens.

    Attributes:
        index: Its number among the sampled frames, from 0.
        timestamp: Seconds from the first shown frame; None where the input does not say.
        relevance: What the selector ranked it by; None where nothing was ranked.
    """

    index: int
    timestamp: float | None
    relevance: float | None


def keyframes_of(
    selection: Selection, timestamps: Tensor | None, frames_per_slice: int = 1
) -> tuple[Keyframe, ...]:
    """Return the keyframes of a selection with their times and what they were ranked by."""
    relevance = selection.relevance
    return tuple(
        Keyframe(
            index=slice_number * frames_per_slice,
            timestamp=None if timestamps is None else float(timestamps[slice_number]),
            relevance=None if relevance is None else float(relevance[slice_number]),
        )
        for slice_number in selection.keyframes.tolist()
    )


def numbers_of(values: Tensor | None) -> tuple[float, ...] | None:
    """Return a vector as plain numbers."""
    return None if values is None else tuple(values.tolist())


@dataclass(frozen=True, eq=False)
class Heat:
    """What a merger weighed in one frame.

    Attributes:
        index: The frame's number among the sampled frames.
        relevance: What the selector ranked it by; None where nothing was ranked.
        weights: ``[h, w]`` float32 of its patches, the mean over its merged tokens.
    """

    index: int
    relevance: float | None
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class CacheUse:
    """What a cache did for one video.

    Attributes:
        kind: What was looked for, such as ``"frame embeddings"``.
        hit: Whether it was read from the cache.
        note: Why it was not, and whether it is in the cache now.
    """

    kind: str
    hit: bool
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {'read from the cache' if self.hit else self.note}"


@dataclass(frozen=True)
class VideoReport:
    """What became of one video.

    Attributes:
        name: The file, or what stands for it.
        frames: The number of frames seen (N).
        keyframes: The frames that kept all their tokens, in order of time.
        tokens_before: The visual tokens that the bare model would read.
        tokens_after: The visual tokens that the wrapped model reads.
        query: What the frames were ranked for; None without a query.
        text_before, text_after: The tokens of text around the slices (timestamps and the like),
            which come on top, likewise.
        timestamps: Seconds of each slice; None where the input does not say.
        relevance: What the selector ranked each slice by; None where it ranked nothing.
        frames_per_slice: How many frames a slice has.
        budget: The ``limit`` of visual tokens, and how many slices are ``whole``, have ``several``
            tokens, ``one``, or ``none``, or share one (``shared``, in so many ``groups``); None
            without a budget.
        decoded: Frames that were decoded, over all passes; None where the input was no file, or
            where another row of the batch read it.
        kept: Frames of the first pass that were kept in memory for the second.
        cache: What was read from the cache, and what was not; empty without a cache.
        heat: What the merger weighed in a few frames, see ``model.vtc.heat_frames``.
        pictures: Small pictures of frames.
        keyframe_tokens, merged_tokens: The visual tokens of the frames that keep all of them, and
            of the others; what is left of ``tokens_after`` follows the last frame. None where no
            model read the video.
        prompt_tokens: All tokens of its row that the model reads, text included; None likewise.
        near: The seconds up to which a keyframe is near, for `uncovered`.
    """

    near: ClassVar[float] = 10.0
    name: str
    frames: int
    keyframes: tuple[Keyframe, ...]
    tokens_before: int
    tokens_after: int
    query: str | None
    text_before: int = 0
    text_after: int = 0
    timestamps: tuple[float, ...] | None = field(default=None, repr=False)
    relevance: tuple[float, ...] | None = field(default=None, repr=False)
    frames_per_slice: int = 1
    decoded: int | None = None
    kept: int = 0
    cache: tuple[CacheUse, ...] = ()
    heat: tuple[Heat, ...] = field(default=(), repr=False, compare=False)
    pictures: Pictures | None = field(default=None, repr=False, compare=False)
    budget: dict[str, int] | None = None
    keyframe_tokens: int | None = None
    merged_tokens: int | None = None
    prompt_tokens: int | None = None

    @property
    def uncovered(self) -> float | None:
        """The share of the video, 0 to 1, that is more than ``near`` seconds from every keyframe.

        The video is the time from its first sampled frame to the end of the last one, which lasts
        as long as the mean step between frames. None where the input has no times.
        """
        if not self.timestamps:
            return None
        times = [k.timestamp for k in self.keyframes if k.timestamp is not None]
        first, last = self.timestamps[0], self.timestamps[-1]
        end = last + (last - first) / max(len(self.timestamps) - 1, 1)
        if end <= first:
            return float(not times)
        covered, edge = 0.0, first
        for time in times:
            start, edge = max(edge, time - self.near), max(edge, min(end, time + self.near))
            covered += max(0.0, edge - start)
        return 1.0 - covered / (end - first)


@dataclass
class Stage:
    """One stage of the work: its seconds, and the bytes that it handed on."""

    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Report:
    """What the last call of a wrapped model did.

    Attributes:
        selector, merger, budget: The parts and their options, as ``vtc.wrap`` takes them.
        videos: One report a video.
        stages: Seconds and bytes by stage. On a GPU, work is counted where it is waited for.
        warnings: What was lost, shortened or replaced on the way.
        answer: What the model answered; None where ``vtc.ask`` did not make the call.
        total_seconds: From the start of ``vtc.ask`` to the answer; 0 where it did not make the
            call. Opening the model is not part of it.
    """

    selector: dict[str, Any]
    merger: dict[str, Any]
    videos: list[VideoReport] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    answer: str | None = None
    total_seconds: float = 0.0
    budget: dict[str, Any] | None = None

    @property
    def frames(self) -> int:
        """The number of frames seen, over all videos."""
        return sum(video.frames for video in self.videos)

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        """The keyframes of the only video."""
        if len(self.videos) != 1:
            raise ValueError(
                f"the call read {len(self.videos)} videos; use report.videos[i].keyframes"
            )
        return self.videos[0].keyframes

    @property
    def tokens_before(self) -> int:
        """The visual tokens that the bare model would read, over all videos."""
        return sum(video.tokens_before for video in self.videos)

    @property
    def tokens_after(self) -> int:
        """The visual tokens that the wrapped model reads, over all videos."""
        return sum(video.tokens_after for video in self.videos)

    @property
    def text_before(self) -> int:
        """The tokens of text around slices that the bare model would read, over all videos."""
        return sum(video.text_before for video in self.videos)

    @property
    def text_after(self) -> int:
        """The tokens of text around slices that the wrapped model reads, over all videos."""
        return sum(video.text_after for video in self.videos)

    @property
    def decoding_line(self) -> str:
        """How many frames were decoded, and how many of them kept; empty where none could be."""
        videos = [video for video in self.videos if video.decoded is not None]
        if not videos:
            return ""
        decoded = sum(video.decoded or 0 for video in videos)
        kept, frames = sum(video.kept for video in videos), sum(video.frames for video in videos)
        return f"{decoded} frames decoded; {kept} of {frames} stayed in memory for the vision tower"

    @property
    def cache_lines(self) -> list[str]:
        """One line for each video that has a cache."""
        several = len(self.videos) > 1
        return [
            (f"{video.name}: " if several else "") + "; ".join(map(str, video.cache))
            for video in self.videos
            if video.cache
        ]

    @property
    def budget_lines(self) -> list[str]:
        """One line for each video that was read within a budget."""
        several = len(self.videos) > 1
        return [
            (f"{video.name}: " if several else "")
            + "budget {limit:,} tokens: {whole:,} frames whole, {several:,} with several tokens, "
            "{one:,} with one, {shared:,} in {groups:,} groups that share one, {none:,} without"
            "".format(**video.budget)
            for video in self.videos
            if video.budget is not None
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values, with the totals, without pictures."""
        names = ("frames", "tokens_before", "tokens_after", "text_before", "text_after")
        totals = {name: getattr(self, name) for name in names}
        videos = [replace(video, heat=(), pictures=None) for video in self.videos]
        plain = asdict(replace(self, videos=videos))
        for video, plain_video in zip(self.videos, plain["videos"], strict=True):
            del plain_video["heat"], plain_video["pictures"]
            plain_video["uncovered"] = video.uncovered
        return totals | plain

    def save_page(self, path: str | os.PathLike[str], marks: Sequence[Mark] = ()) -> None:
        """Write a page that shows why: question, answer, keyframes in time, weights, costs.

        The page is one HTML file without scripts, and makes no request. Pictures of the frames of
        a file are read from it now, so it must still be there.

        Args:
            path: A file that ends in ``.html``.
            marks: Parts of the timeline to mark.

        Raises:
            ValueError: The name does not end in ``.html``, or the folder cannot be written.
        """
        from vtc.pages.page import page_html
        from vtc.pages.text import check_target

        check_target(path, ".html", "the page")
        Path(path).write_text(page_html(self, marks), encoding="utf-8")

    def _text(self) -> str:
        if not self.text_before:
            return ""
        return f", {self.text_before} -> {self.text_after} tokens of text around them"

    def __str__(self) -> str:
        seconds = ", ".join(f"{name} {stage.seconds:.2f}" for name, stage in self.stages.items())
        lines = [
            f"{self.selector['name']} + {self.merger['name']}: {self.frames} frames, "
            f"{sum(len(video.keyframes) for video in self.videos)} keyframes, "
            f"{self.tokens_before} -> {self.tokens_after} visual tokens{self._text()}",
            f"seconds: {seconds}",
            *self.budget_lines,
            *filter(None, [self.decoding_line]),
            *self.cache_lines,
            *self.warnings,
        ]
        return "\n".join(lines)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Run every stage of the calls inside in a context of one's own, as profilers do."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


class Recorder:
    """Fill a report during a call."""

    def __init__(self, report: Report, progress: Progress | None = None) -> None:
        self.report = report
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Add the time spent inside to a stage."""
        stage = self.report.stages.setdefault(name, Stage())
        watch = _watch.get()
        start = perf_counter()
        try:
            with nullcontext() if watch is None else watch(name):
                yield stage
        finally:
            stage.seconds += perf_counter() - start

    def waited(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Pass ``items`` on, adding the time spent waiting for them to a stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def warn(self, *warnings: str) -> None:
        """Note what a reader of the result must know, each sentence once."""
        for warning in warnings:
            if warning not in self.report.warnings:
                self.report.warnings.append(warning)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage to the callback."""
        if self._progress is not None:
            self._progress(stage, done, total)
