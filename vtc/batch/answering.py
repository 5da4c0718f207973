"""Jobs that answer the rows of a group: with a language model, or with a selector alone.

A `Job` holds plain values and module-level functions, so that it can be sent to another process,
which loads the model.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vtc.batch.results import Line
from vtc.batch.rows import Group, Question
from vtc.plugins.discovery import cause

Answer = Callable[[Group], list[Line]]


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Answers the rows of a batch.

    Attributes:
        root: The folder that the rows' videos are relative to.
        video: Options of ``VideoSource``.
        all_frames: Whether a line holds the times and scores of all frames, not only of keyframes.
    """

    root: Path
    video: Mapping[str, Any] = field(default_factory=dict)
    all_frames: bool = False
    empty: ClassVar[Mapping[str, Any]]
    """The fields of the result of a row that failed."""

    @abstractmethod
    def load(self) -> Callable[[Any, list[str]], list[Mapping[str, Any]]]:
        """Load the models; return a function of a source and its questions.

        It returns a mapping for each question: the fields of the result, and ``report``.
        """

    def open(self, worker: int | None = None) -> Answer:
        """Load the models; return a function that answers a group.

        It returns a line for each row of the group. An exception of a video, a model or a part
        becomes the line's error. A group that fails is retried in halves, so that one question too
        long for the memory does not fail the others.

        Args:
            worker: The number of this worker process; the workers share the GPUs of the machine.
        """
        from vtc.video import VideoError, VideoSource

        if worker is not None:
            _take_gpu(worker)
        function = self.load()

        def answer(group: Group) -> list[Line]:
            reason = ""
            try:
                source = VideoSource(place(self.root, group.video), **self.video)
                results = function(source, [row.question for row in group.rows])
                return [_line(row, result) for row, result in zip(group.rows, results, strict=True)]
            except VideoError as error:
                return [self.failure(row, cause(error)) for row in group.rows]
            # A model, a third party's part or a library may raise anything; other rows still run.
            except Exception as error:
                if _is_broken_device(error):
                    raise
                reason = cause(error)
            # Retry outside the handler: the exception keeps the failed call's tensors alive.
            if len(group.rows) == 1:
                return [self.failure(group.rows[0], reason)]
            middle = len(group.rows) // 2
            return answer(Group(group.rows[:middle])) + answer(Group(group.rows[middle:]))

        return answer

    def failure(self, row: Question, reason: str) -> Line:
        """Return the line of a row that has no result."""
        return _line(row, self.empty, reason)

    def _frames(self, values: dict[str, Any]) -> dict[str, Any]:
        """Leave out the values of every frame, unless `all_frames` is set."""
        names = ("timestamps", "relevance")
        return {k: v for k, v in values.items() if self.all_frames or k not in names}


@dataclass(frozen=True, kw_only=True)
class AskJob(Job):
    """Answers rows with a language model.

    Attributes:
        open_model: Returns a wrapped model and its processor.
        generation: Arguments of ``generate``.
    """

    open_model: Callable[[], tuple[Any, Any]]
    generation: Mapping[str, Any] = field(default_factory=dict)
    empty = {"answer": None}

    def load(self) -> Callable[[Any, list[str]], list[Mapping[str, Any]]]:
        import vtc
        from vtc.wrapped.access import toolkit_of

        model, processor = self.open_model()
        toolkit_of(model).heat_frames = 0  # weights are for pages

        def ask(source: Any, questions: list[str]) -> list[Mapping[str, Any]]:
            answers = vtc.ask(model, processor, source, questions, **self.generation)
            return [
                {"answer": answer.text, "report": self._report(answer.report.to_dict())}
                for answer in answers
            ]

        return ask

    def _report(self, report: dict[str, Any]) -> dict[str, Any]:
        del report["answer"]  # it is next to the report
        return {**report, "videos": [self._frames(video) for video in report["videos"]]}


@dataclass(frozen=True, kw_only=True)
class SelectJob(Job):
    """Selects keyframes for rows, without a language model.

    Attributes:
        selector: ``{"name": ..., **options}``.
        encoder: The frame encoder, unless the selector names one.
        device: The device of the frame encoder.
    """

    selector: Mapping[str, Any]
    encoder: str
    device: str = "auto"
    empty = {"keyframes": None}

    def load(self) -> Callable[[Any, list[str]], list[Mapping[str, Any]]]:
        from vtc.encoders.device import pick_device
        from vtc.encoders.lazy import LazyEncoder
        from vtc.pipeline.selecting import select_for_texts
        from vtc.plugins import registry

        name = registry.build_part("selector", self.selector).encoder or self.encoder
        encoder = LazyEncoder(name, device=pick_device(self.device))

        def select(source: Any, questions: list[str]) -> list[Mapping[str, Any]]:
            reports = select_for_texts(source, questions, self.selector, encoder)
            return [self._result(report) for report in reports]

        return select

    def _result(self, report: Any) -> Mapping[str, Any]:
        [video] = report.videos
        frames = {"timestamps": video.timestamps, "relevance": video.relevance}
        return {
            "keyframes": [asdict(frame) for frame in video.keyframes],
            **self._frames(frames),
            "report": {
                "selector": report.selector,
                "frames": video.frames,
                "stages": {name: asdict(stage) for name, stage in report.stages.items()},
                "warnings": report.warnings,
            },
        }


def place(root: Path, video: str) -> Path | str:
    """Return the path or address of a row's video."""
    return video if video.startswith("file://") else root / video


def check_videos(groups: Sequence[Group], root: Path) -> None:
    """Check that some video exists, to detect a wrong folder.

    Raises:
        ValueError: None of the videos exists.
    """
    places = (place(root, group.video) for group in groups)
    if not any(isinstance(video, str) or video.exists() for video in places):
        first = place(root, groups[0].video)
        raise ValueError(
            f"none of the videos exists, such as {first}; give the folder that their names are "
            "relative to as --video-root"
        )


def _line(row: Question, result: Mapping[str, Any], error: str | None = None) -> Line:
    start = {"id": row.id, "video": row.video, "question": row.question}
    fields = {name: value for name, value in result.items() if name != "report"}
    return {**start, **fields, "error": error, "report": result.get("report")}


def _take_gpu(worker: int) -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(worker % torch.cuda.device_count())


def _is_broken_device(error: Exception) -> bool:
    """Return whether a GPU failed so that only a new process can use it again."""
    kind = getattr(sys.modules.get("torch"), "AcceleratorError", ())
    return isinstance(error, kind)
