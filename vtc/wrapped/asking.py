"""``ask`` and ``prepare_inputs``: a video and a question, with unexpanded placeholders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, overload

from vtc.interfaces.part import require
from vtc.interfaces.prompts import check_text, needs_special_tokens, with_system
from vtc.pipeline.feed import VideoRequest
from vtc.pipeline.modules import input_device
from vtc.video import VideoError, VideoSource
from vtc.wrapped.access import last_report, toolkit_of

if TYPE_CHECKING:
    from vtc.pipeline.report import Report

NEW_TOKENS = 256
"""The default maximum number of tokens of an answer."""
_PATHS = (str, os.PathLike)
_OPENED_AT_ONCE = 4
"""The number of videos of a batch that are opened in parallel."""


@dataclass(frozen=True)
class Answer:
    """A model's answer about one video.

    Attributes:
        text: The answer, without special tokens.
        report: Frames, keyframes, tokens, seconds.
    """

    text: str
    report: Report

    def __str__(self) -> str:
        return self.text


@overload
def ask(
    model: Any, processor: Any, video: Any, question: str, *, fps: float | None = ..., **kwargs: Any
) -> Answer: ...


@overload
def ask(
    model: Any,
    processor: Any,
    video: Any,
    question: Sequence[str],
    *,
    fps: float | None = ...,
    **kwargs: Any,
) -> list[Answer]: ...


def ask(
    model: Any,
    processor: Any,
    video: Any,
    question: str | Sequence[str],
    *,
    fps: float | None = 1.0,
    max_frames: int | None = None,
    system: str | None = None,
    **generate_kwargs: Any,
) -> Answer | list[Answer]:
    """Ask a wrapped model about a video, once or several times.

    Several questions share one pass over the video: it is decoded, embedded and encoded once. They
    are answered as one batch, so memory grows with the number of questions.

    Args:
        model: A model that ``vtc.wrap`` returned.
        processor: The model's stock processor.
        video: A file, an array ``[N, H, W, 3]`` uint8, a list of PIL images, or a ``VideoSource``.
        question: A question, or a list of questions about the same video.
        fps: Frames to sample per second; None for every frame.
        max_frames: The maximum number of frames; if ``fps`` gives more, this many are spread
            evenly instead.
        system: Instructions for the model, the system turn of the processor's chat template.
        **generate_kwargs: Passed to ``model.generate``. The default limit is 256 new tokens,
            unless these or the model's generation settings contain another.

    Returns:
        The answer, or a list of answers in the order of the questions.

    Raises:
        VideoError: The video cannot be read; the message names the file and the reason.
        TypeError: The model, the processor or the question has the wrong type.
        ValueError: The model is not wrapped, or an argument is out of range.

    >>> model, processor = vtc.open_model("shipped")  # a tiny model, trained on synthetic video
    >>> video = make_example(seed=5, frames=600, kind="colour", split="test").video
    >>> answer = vtc.ask(model, processor, video, "What colour is the moon?")
    >>> answer.text, len(answer.report.keyframes), answer.report.tokens_after
    ('red', 8, 665)
    """
    began = perf_counter()
    several = isinstance(question, (list, tuple))
    if not several and not isinstance(question, str):
        raise TypeError(
            f"expected question to be a text or a list of texts, got {type(question).__name__}"
        )
    if "vtc_restore_prompt" in generate_kwargs:
        raise ValueError("vtc_restore_prompt is for model.generate; ask returns the answer alone")
    if generate_kwargs.get("num_return_sequences", 1) != 1 and several:
        raise ValueError("num_return_sequences > 1 needs one question at a time")
    videos = [video] * len(question) if several else video
    inputs = prepare_inputs(
        model, processor, videos, question, fps=fps, max_frames=max_frames, system=system
    )
    limits = ("max_new_tokens", "max_length")
    settings = (generate_kwargs.get("generation_config"), model.generation_config)
    limited = any(getattr(config, name, None) for config in settings for name in limits)
    if not limited and not generate_kwargs.keys() & set(limits):
        generate_kwargs["max_new_tokens"] = NEW_TOKENS
    result = model.generate(**inputs, **generate_kwargs)
    sequences = getattr(result, "sequences", result)
    report = last_report(model)
    report.total_seconds = perf_counter() - began
    copies = len(sequences) // len(report.videos)  # generate may return several per prompt
    answers = []
    for row, video_report in enumerate(report.videos):
        new = sequences[row * copies, inputs["input_ids"].shape[1] :]
        text = processor.decode(new, skip_special_tokens=True).strip()
        answers.append(Answer(text, replace(report, videos=[video_report], answer=text)))
    if several:
        return answers
    report.answer = answers[0].text
    return Answer(report.answer, report)


def prepare_inputs(
    model: Any,
    processor: Any,
    video: Any,
    question: str | Sequence[str],
    *,
    fps: float | None = 1.0,
    max_frames: int | None = None,
    system: str | None = None,
    errors: Literal["raise", "report"] = "raise",
) -> dict[str, Any]:
    """Return the arguments for ``model.generate(**inputs)`` or ``model(**inputs)``.

    The video stays lazy: ``input_ids`` holds one placeholder per video (one per slice in families
    that write text around each slice). Frames are decoded chunk by chunk while the model reads
    them. A list of videos and a list of as many questions give a left-padded batch.

    Args:
        model, processor, video, question, fps, max_frames, system: As for ``ask``.
        errors: ``"raise"`` if a video of a list cannot be opened, or ``"report"`` to leave out its
            row with a warning that names the row and the reason.

    Returns:
        ``input_ids`` and ``attention_mask`` ``[B, L]`` int64 on the model's device, other inputs
        that the family needs, and two lists of length B: the lazy videos as ``vtc_videos`` and
        the questions as ``vtc_query``.

    Raises:
        VideoError: A video cannot be opened; with ``errors="report"``, no video can be opened.
        TypeError: The model or the processor has the wrong type.
        ValueError: The model is not wrapped, or an argument is out of range.
    """
    toolkit = toolkit_of(model)
    if not hasattr(processor, "tokenizer") or not callable(getattr(processor, "decode", None)):
        raise TypeError(
            "expected processor to be the model's processor, such as AutoProcessor returns, got "
            f"{type(processor).__name__}"
        )
    require(errors in ("raise", "report"), "errors", errors, "'raise' or 'report'")
    batch = isinstance(question, (list, tuple))
    questions: list[Any] = list(question) if batch else [question]
    videos = video if batch else [video]
    if batch and (not isinstance(video, (list, tuple)) or len(videos) != len(questions)):
        raise ValueError(f"expected a list of {len(questions)} videos, one for each question")
    if not batch and isinstance(video, (list, tuple)) and _are_videos(video):
        raise ValueError(
            f"{len(video)} videos were given with one question; give a list of as many questions"
        )
    filled = all(isinstance(text, str) and text.strip() for text in questions)
    if not questions or not filled:
        raise ValueError(f"expected question to be some text, got {question!r}")
    for text in questions:
        check_text(processor, text)
    opened = _open_all(videos, fps, max_frames, keep_errors=errors == "report")
    if failures := [result for result in opened if isinstance(result, VideoError)]:
        for row, result in enumerate(opened):
            if isinstance(result, VideoError):
                warnings.warn(f"row {row} is left out: {result}", stacklevel=2)
        if len(failures) == len(opened):
            raise failures[0]
    pairs = zip(questions, opened, strict=True)
    questions = [text for text, result in pairs if isinstance(result, VideoSource)]
    sources = [result for result in opened if isinstance(result, VideoSource)]
    writer = processor if system is None else with_system(processor, system)
    prompts = [
        toolkit.adapter.prompt(writer, text, source)
        for text, source in zip(questions, sources, strict=True)
    ]
    tokens = processor.tokenizer(
        prompts,
        add_special_tokens=needs_special_tokens(processor, prompts[0]),
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    ids = tokens["input_ids"].to(input_device(model))
    return {
        **toolkit.adapter.text_inputs(model, ids),
        "input_ids": ids,
        "attention_mask": tokens["attention_mask"].to(input_device(model)),
        "vtc_videos": [VideoRequest(source, processor) for source in sources],
        "vtc_query": questions,
    }


def _open_all(
    videos: Sequence[Any], fps: float | None, max_frames: int | None, keep_errors: bool
) -> list[VideoSource | VideoError]:
    """Open videos in parallel, since opening a file scans all of it for its index.

    A video that is in the list twice is opened once.
    """

    def open_one(video: Any) -> VideoSource | VideoError:
        try:
            source = VideoSource(video, fps=fps, max_frames=max_frames)
            return video if isinstance(video, VideoSource) else source
        except VideoError as error:
            if keep_errors:
                return error
            raise

    keys = [os.fspath(video) if isinstance(video, _PATHS) else id(video) for video in videos]
    distinct = dict(zip(keys, videos, strict=True))
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        opened = dict(zip(distinct, pool.map(open_one, distinct.values()), strict=True))
    return [opened[key] for key in keys]


def _are_videos(items: Sequence[Any]) -> bool:
    """Return whether a list holds videos; a list of images is one video."""
    return any(isinstance(item, (str, os.PathLike, VideoSource)) for item in items)
