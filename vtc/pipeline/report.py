"""The report of a call: frames, keyframes, tokens, seconds and bytes."""

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
"""Called with the name of a stage, the number of frames done, and the total."""
Watch = Callable[[str], AbstractContextManager[None]]
"""Returns the context in which the stage of the given name runs."""

_watch: ContextVar[Watch | None] = ContextVar("vtc_watch", default=None)


@dataclass(frozen=True)
class Keyframe:
    """A frame that keeps all its tokens.

    Attributes:
        index: The frame's number among the sampled frames, from 0.
        timestamp: Seconds from the first shown frame; None if unknown.
        relevance: The selector's score; None if the selector does not rank.
    """

    index: int
    timestamp: float | None
    relevance: float | None


def keyframes_of(
    selection: Selection, timestamps: Tensor | None, frames_per_slice: int = 1
) -> tuple[Keyframe, ...]:
    """Return the keyframes of a selection with their times and scores."""
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
    """A merger's weights of one frame's patches.

    Attributes:
        index: The frame's number among the sampled frames.
        relevance: The selector's score of the frame; None if the selector does not rank.
        weights: ``[h, w]`` float32, the weights of the patches, the mean over the merged tokens.
    """

    index: int
    relevance: float | None
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class CacheUse:
    """One use of the cache for a video.

    Attributes:
        kind: The kind of tensors, such as ``"frame embeddings"``.
        hit: Whether they were read from the cache.
        note: Otherwise the reason, and whether they are in the cache now.
    """

    kind: str
    hit: bool
    note: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {'read from the cache' if self.hit else self.note}"


@dataclass(frozen=True)
class VideoReport:
    """Statistics of one compressed video.

    Attributes:
        name: The file name, or a label.
        frames: N, the number of sampled frames.
        keyframes: The frames that kept all their tokens, in order of time.
        tokens_before: The visual tokens that the bare model would read.
        tokens_after: The visual tokens that the wrapped model reads.
        query: The query that frames were ranked for; None without one.
        text_before, text_after: The same for the text around the slices (timestamps and the
            like), which is not counted among the visual tokens.
        timestamps: Seconds of each slice; None if unknown.
        relevance: The selector's score of each slice; None if the selector does not rank.
        frames_per_slice: The number of frames per slice.
        budget: The ``limit`` of visual tokens, and the number of slices that are ``whole``, have
            ``several`` tokens, ``one`` or ``none``, or share one (``shared``, in ``groups``); None
            without a budget.
        decoded: Frames that were decoded, over all passes; None if the input was not a file, or
            if another row of the batch decoded it.
        kept: Frames of the first pass that were kept in memory for the second.
        cache: The uses of the cache; empty without one.
        heat: The merger's weights of a few frames, see ``model.vtc.heat_frames``.
        pictures: Small pictures of frames.
        keyframe_tokens, merged_tokens: The visual tokens of the frames that keep all of them, and
            of the merged frames; the rest of ``tokens_after`` follows the last frame. None if no
            model read the video.
        prompt_tokens: All tokens of the video's row that the model reads, text included; None if
            no model read the video.
        near: For `uncovered`, the largest distance in seconds at which a keyframe is near.
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

        The video runs from its first sampled frame to the end of its last one, which lasts as long
        as the mean step between frames. None if there are no timestamps.
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
    """One stage of a call: its seconds, and the bytes of its output."""

    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Report:
    """The report of a call of a wrapped model.

    Attributes:
        selector, merger, budget: The parts and their options, as ``vtc.wrap`` takes them.
        videos: One report per video.
        stages: Seconds and bytes by stage. On a GPU, work counts in the stage that waits for it.
        warnings: Everything that was lost, shortened or replaced.
        answer: The model's answer; None if the call was not made by ``vtc.ask``.
        total_seconds: Seconds from the start of ``vtc.ask`` to the answer, without opening the
            model; 0 if the call was not made by ``vtc.ask``.
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
        """The number of frames decoded and kept, as text; empty if nothing was decoded."""
        videos = [video for video in self.videos if video.decoded is not None]
        if not videos:
            return ""
        decoded = sum(video.decoded or 0 for video in videos)
        kept, frames = sum(video.kept for video in videos), sum(video.frames for video in videos)
        return f"{decoded} frames decoded; {kept} of {frames} stayed in memory for the vision tower"

    @property
    def cache_lines(self) -> list[str]:
        """One line for each video with a cache."""
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
        """Return the report as plain JSON values, with totals and without pictures."""
        names = ("frames", "tokens_before", "tokens_after", "text_before", "text_after")
        totals = {name: getattr(self, name) for name in names}
        videos = [replace(video, heat=(), pictures=None) for video in self.videos]
        plain = asdict(replace(self, videos=videos))
        for video, plain_video in zip(self.videos, plain["videos"], strict=True):
            del plain_video["heat"], plain_video["pictures"]
            plain_video["uncovered"] = video.uncovered
        return totals | plain

    def save_page(self, path: str | os.PathLike[str], marks: Sequence[Mark] = ()) -> None:
        """Write a page that explains the answer: question, keyframes in time, weights, costs.

        The page is one HTML file without scripts or network requests. Its pictures are read from
        the video file now, so that must still exist.

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
    """Run every stage of the calls inside in the context that ``watch`` returns, to profile it."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


class Recorder:
    """Fills a report during a call."""

    def __init__(self, report: Report, progress: Progress | None = None) -> None:
        self.report = report
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Add the time of the ``with`` block to a stage."""
        stage = self.report.stages.setdefault(name, Stage())
        watch = _watch.get()
        start = perf_counter()
        try:
            with nullcontext() if watch is None else watch(name):
                yield stage
        finally:
            stage.seconds += perf_counter() - start

    def waited(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield ``items``; add the time spent waiting for them to a stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def warn(self, *warnings: str) -> None:
        """Add warnings to the report, each once."""
        for warning in warnings:
            if warning not in self.report.warnings:
                self.report.warnings.append(warning)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Call the progress callback, if there is one."""
        if self._progress is not None:
            self._progress(stage, done, total)
