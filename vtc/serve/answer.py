"""Answer one request with the model, in the worker's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vtc.pipeline.modules import input_device
from vtc.serve.errors import ApiError
from vtc.serve.prompt import Turn, conversation_inputs
from vtc.serve.stream import StopsAtText, TextStream
from vtc.video import VideoError, VideoSource
from vtc.wrapped.access import last_report, toolkit_of

if TYPE_CHECKING:
    from vtc.pipeline.report import Report
    from vtc.serve.schema import ChatRequest


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        fps: Frames to read per second, unless the request sets it.
        max_frames: The maximum number of frames of a video.
        max_new_tokens: The maximum number of tokens of an answer.
        max_pixels: The maximum number of pixels of a video's frame.
    """

    fps: float = 1.0
    max_frames: int = 10_000
    max_new_tokens: int = 1024
    max_pixels: int = 8192 * 4320


@dataclass(frozen=True)
class Result:
    """The statistics of a complete answer.

    Attributes:
        finish_reason: ``stop``, or ``length`` if the answer was cut.
        prompt_tokens: The number of tokens that the language model read, after compression.
        completion_tokens: The number of tokens that it wrote.
        report: The report of the videos; None without a video.
    """

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    report: Report | None


class Answerer:
    """A wrapped model that answers requests.

    Args:
        check: Called often while the model works; an exception ends the request.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        limits: Limits,
        check: Callable[[], None],
        open_source: Callable[..., VideoSource] = VideoSource,
    ) -> None:
        self.model, self.processor, self.limits = model, processor, limits
        self._check, self._open = check, open_source
        toolkit = toolkit_of(model)
        toolkit.progress = lambda *_: check()
        toolkit.heat_frames = 0
        if toolkit.selector.uses_embeddings:  # load it now, not in the first request
            toolkit.encoders_on(input_device(model))[1].load()
        for layer in _layers(model):
            layer.register_forward_pre_hook(lambda *_: check())

    def answer(
        self, request: ChatRequest, turns: list[Turn], emit: Callable[[str], None]
    ) -> Result:
        """Answer a conversation, in which videos are paths.

        Raises:
            ValueError: A video cannot be read, or the model does not take such a conversation.
        """
        turns = [
            Turn(turn.role, [self._opened(item, request) for item in turn.items]) for turn in turns
        ]
        inputs = conversation_inputs(self.model, self.processor, turns, request.vtc.query)
        stream = TextStream(self.processor.tokenizer, request.stop, emit)
        length = request.max_completion_tokens or request.max_tokens or self.limits.max_new_tokens
        with _seeded(request.seed, self.model.device):
            sequences = self.model.generate(
                **inputs,
                **_sampling(request),
                max_new_tokens=length,
                streamer=stream,
                stopping_criteria=[StopsAtText(stream)],
                vtc_restore_prompt=False,
            )
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        cut = stream.tokens >= length and int(sequences[0, -1]) not in ends and not stream.stopped
        report = last_report(self.model) if "vtc_videos" in inputs else None
        prompt_tokens = sequences.shape[1] - stream.tokens
        return Result("length" if cut else "stop", prompt_tokens, stream.tokens, report)

    def _opened(self, item: Any, request: ChatRequest) -> Any:
        if not isinstance(item, Path):
            return item
        limits, reading = self.limits, request.vtc
        source = self._open(
            item,
            fps=reading.fps or limits.fps,
            max_frames=min(reading.max_frames or limits.max_frames, limits.max_frames),
        )
        if source.width * source.height > limits.max_pixels:
            raise VideoError(
                f"{source.name}: expected frames of at most {limits.max_pixels:,} pixels, got "
                f"{source.width}x{source.height}"
            )
        return source.watched(self._check)


def check_length(request: ChatRequest, limits: Limits) -> None:
    """Check that the requested answer is not longer than the server allows.

    Raises:
        ApiError: It is longer.
    """
    for name in ("max_tokens", "max_completion_tokens"):
        length = getattr(request, name)
        if length is not None and length > limits.max_new_tokens:
            raise ApiError(
                400, f"{name}: expected at most {limits.max_new_tokens}, got {length}", param=name
            )


def short_report(report: Report) -> dict[str, Any]:
    """Return a report as plain values, without the times and scores of every frame."""
    videos = [replace(video, timestamps=None, relevance=None) for video in report.videos]
    plain = replace(report, videos=videos).to_dict()
    for video in plain["videos"]:
        del video["timestamps"], video["relevance"]
    return plain


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of all towers: the members of module lists."""
    return [
        layer for module in model.modules() if isinstance(module, nn.ModuleList) for layer in module
    ]


def _sampling(request: ChatRequest) -> dict[str, Any]:
    if request.temperature == 0:
        return {"do_sample": False}
    options = {"temperature": request.temperature, "top_p": request.top_p}
    options = {name: value for name, value in options.items() if value is not None}
    return {"do_sample": True, **options} if options else {}


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Use a seed in the ``with`` block, and restore the random state after it."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
