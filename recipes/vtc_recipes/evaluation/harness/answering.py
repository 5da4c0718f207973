"""Answer the requests of a harness; requests about the same video share a pass over it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import vtc
from vtc.pipeline.report import Report
from vtc.plugins import registry
from vtc.serve.prompt import Turn, conversation_inputs
from vtc.video import VideoError, VideoSource
from vtc.wrapped.access import last_report, toolkit_of
from vtc_recipes.evaluation.harness.requests import Prediction, PredictionFile, Request, cut

_FRAME_FOLDER_FPS = 3.0
"""Frame rate of picture folders, which replace videos in MVBench (``video_fps3_hq_segment``)."""
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class ReadingOptions:
    """How to read videos and group questions.

    Attributes:
        fps, max_frames, reader, cache: Passed to ``vtc.VideoSource``.
        system: Instructions before the conversation, unless the harness has its own.
        together: Maximum number of questions in a pass; each needs memory.
    """

    fps: float = 1.0
    max_frames: int | None = None
    reader: str = "pyav"
    cache: str | None = None
    system: str | None = None
    together: int = 4

    def open(self, path: str) -> VideoSource:
        """Open a video, or a folder of pictures.

        Raises:
            VideoError: The path cannot be read.
        """
        if Path(path).is_dir():
            return _open_pictures(Path(path))
        return VideoSource(
            path,
            fps=self.fps,
            max_frames=self.max_frames,
            reader=self.reader,
            cache=self.cache,
        )


def _open_pictures(folder: Path) -> VideoSource:
    from PIL import Image

    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES)
    if not files:
        raise VideoError(f"{folder} holds no picture")
    try:
        pictures = [Image.open(file).convert("RGB") for file in files]
    except OSError as error:
        raise VideoError(f"{folder}: {error}") from error
    return VideoSource(pictures, fps=_FRAME_FOLDER_FPS)


class Answerer:
    """Answers requests with a wrapped model.

    Args:
        model, processor: The results of ``vtc.open_model``.
        reading: How to read videos and group questions.
        file: Stores predictions; requests in it are not asked again, except after an error.
        control: One of `tasks.CONTROLS`, or None for the model's own parts.
        method: For a control, the predictions of the method by key.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        reading: ReadingOptions,
        file: PredictionFile,
        control: str | None = None,
        method: Mapping[str, Prediction] | None = None,
    ) -> None:
        self.model, self.processor, self.reading = model, processor, reading
        self.file, self.control, self.method = file, control, method or {}
        toolkit_of(model).heat_frames = 0  # only pages use the weights

    def answer(
        self, requests: Sequence[Request], progress: Callable[[int, int], None]
    ) -> list[Prediction]:
        """Answer requests, in their order.

        A video that cannot be read, a question that the model does not take, or too little memory
        is the error of a prediction, and a warning.
        """
        before = self.file.kept
        missing = {
            request.key: request
            for request in requests
            if request.key not in before or before[request.key].error is not None
        }
        done = len(requests) - len(missing)
        progress(done, len(requests))
        for group in self._groups(list(missing.values())):
            self.file.add(self._answer_group(group))
            done += len(group)
            progress(done, len(requests))
        return [self.file.kept[request.key] for request in requests]

    def _groups(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Group the requests that share a video and settings."""
        groups: dict[Any, list[Request]] = {}
        for request in requests:
            video = self._only_video(request)
            settings = (video, repr(request.generation), self._target(request))
            groups.setdefault(request.key if video is None else settings, []).append(request)
        size = self.reading.together
        return [
            same[start : start + size]
            for same in groups.values()
            for start in range(0, len(same), size)
        ]

    def _only_video(self, request: Request) -> str | None:
        """Return the video of a request that is one video followed by text; else None."""
        turns = [message for message in request.messages if message["role"] != "system"]
        if self.control == "no_video" or len(turns) != 1 or len(turns) != len(request.messages):
            return None
        kinds = [part["type"] for part in turns[0]["content"]]
        if kinds[:1] != ["video"] or kinds.count("video") > 1 or not {*kinds} <= {"video", "text"}:
            return None
        url = turns[0]["content"][0]["url"]
        return url if isinstance(url, str) and len(kinds) > 1 else None

    def _target(self, request: Request) -> tuple[int, int, int]:
        """Return the method's tokens per video, tokens per whole frame, and keyframes per video."""
        if self.control in (None, "no_video"):
            return (0, 0, 0)
        like = self.method.get(request.key)
        if like is None or like.error is not None or not like.per_frame:
            return (0, 0, 0)
        kinds = [part["type"] for message in request.messages for part in message["content"]]
        videos = max(1, kinds.count("video"))
        return (like.tokens_after // videos, like.per_frame, len(like.keyframes) // videos)

    def _answer_group(self, group: Sequence[Request]) -> list[Prediction]:
        """Answer questions that share a pass; one that fails does not take the others with it."""
        try:
            return self._ask(group)
        except VideoError as error:
            return self._failed(group, error)
        except (ValueError, torch.OutOfMemoryError) as error:
            if len(group) == 1:
                return self._failed(group, error)
        # Retry outside the handler, because the error keeps the tensors of the failed call alive.
        middle = len(group) // 2
        return self._answer_group(group[:middle]) + self._answer_group(group[middle:])

    def _failed(self, group: Sequence[Request], error: Exception) -> list[Prediction]:
        reason = " ".join(str(error).split())
        warnings.warn(f"{group[0].task}: no answer to row {group[0].doc}: {reason}", stacklevel=2)
        return [Prediction(r.key, r.task, r.doc, error=reason) for r in group]

    def _ask(self, group: Sequence[Request]) -> list[Prediction]:
        start = perf_counter()
        first = group[0]
        video = self._only_video(first)
        if self.control not in (None, "no_video"):
            target = self._target(first)
            if not target[0]:  # there is no number of tokens to match
                reason = f"the method has no answer, so {self.control} has no number of tokens"
                return [Prediction(r.key, r.task, r.doc, error=reason) for r in group]
            self._set_parts(*target, name=video or first.key)
        if video is None:
            results = [self._converse(request) for request in group]
            texts, reports = [text for text, _ in results], [report for _, report in results]
        else:
            texts, reports = self._ask_together(self.reading.open(video), group)
        seconds = (perf_counter() - start) / len(group)
        return [
            _prediction(request, text, report, seconds, len(group))
            for request, text, report in zip(group, texts, reports, strict=True)
        ]

    def _ask_together(
        self, source: VideoSource, group: Sequence[Request]
    ) -> tuple[list[str], list[Report | None]]:
        """Ask about one video like `vtc.ask`, but with separate queries for keyframe selection."""
        inputs = vtc.prepare_inputs(
            self.model,
            self.processor,
            [source] * len(group),
            [_text_of(request) for request in group],
            system=self.reading.system,
        )
        queries = zip(group, inputs["vtc_query"], strict=True)
        inputs["vtc_query"] = [request.query or text for request, text in queries]
        sequences = self.model.generate(**inputs, **group[0].generation)
        new = sequences[:, inputs["input_ids"].shape[1] :]
        texts = [self.processor.decode(row, skip_special_tokens=True) for row in new]
        report = last_report(self.model)
        return texts, [replace(report, videos=[video]) for video in report.videos]

    def _set_parts(self, tokens: int, per_frame: int, keyframes: int, name: str) -> None:
        """Give the control as many tokens as the method has for the same question."""
        toolkit = self.model.vtc
        if self.control == "uniform":
            count = max(1, round(tokens / per_frame))
            spec: dict[str, Any] = {"name": "uniform", "keyframes": count}
            toolkit.selector = registry.build_part("selector", spec)
        elif self.control == "random":
            seed = int(hashlib.sha256(Path(name).name.encode()).hexdigest()[:7], 16)
            spec = {"name": "random", "keyframes": max(1, keyframes), "seed": seed}
            toolkit.selector = registry.build_part("selector", spec)
        else:
            toolkit.budget = registry.build_budget(tokens)

    def _converse(self, request: Request) -> tuple[str, Report | None]:
        """Answer a conversation with any number of videos and pictures."""
        turns = [
            Turn(message["role"], [i for part in message["content"] for i in self._item(part)])
            for message in request.messages
        ]
        if self.reading.system is not None and turns[0].role != "system":
            turns.insert(0, Turn("system", [self.reading.system]))
        inputs = conversation_inputs(self.model, self.processor, turns, request.query)
        sequences = self.model.generate(**inputs, **request.generation)
        new = sequences[0, inputs["input_ids"].shape[1] :]
        text = self.processor.decode(new, skip_special_tokens=True)
        return text, last_report(self.model) if "vtc_videos" in inputs else None

    def _item(self, part: Mapping[str, Any]) -> list[Any]:
        kind, content = part["type"], part.get("url")
        if kind == "text":
            return [part["text"]]
        if self.control == "no_video":
            return []
        if kind == "video":
            return [self.reading.open(str(content))]
        if kind != "image":
            raise ValueError(f"expected videos, pictures and text, got {kind}")
        return [_picture(content)]


def _picture(content: Any) -> Any:
    from PIL import Image

    return (Image.open(content) if isinstance(content, str) else content).convert("RGB")


def _text_of(request: Request) -> str:
    parts = request.messages[0]["content"]
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def _prediction(
    request: Request, text: str, report: Report | None, seconds: float, together: int
) -> Prediction:
    plain = Prediction(
        request.key,
        request.task,
        request.doc,
        text=cut(text, request.until).strip(),
        seconds=round(seconds, 4),
        together=together,
    )
    if report is None:
        return plain
    first = report.videos[0]
    slices = ceil(first.frames / first.frames_per_slice)
    return replace(
        plain,
        frames=report.frames,
        keyframes=tuple(
            float(frame.index if frame.timestamp is None else frame.timestamp)
            for video in report.videos
            for frame in video.keyframes
        ),
        tokens_before=report.tokens_before,
        tokens_after=report.tokens_after,
        per_frame=first.tokens_before // slices,
        warnings=tuple(report.warnings),
    )
