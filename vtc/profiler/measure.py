"""Measure seconds and memory of each stage while a wrapped model reads a video and answers."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import vtc
from vtc.pipeline.report import Report, watching
from vtc.profiler.stages import (
    CONNECTOR,
    DECODE,
    ENCODER,
    KEYFRAMES,
    MERGING,
    OTHERS,
    PREFILL,
    SELECTION,
    TOKENS,
    LengthProfile,
)
from vtc.video import VideoSource
from vtc.wrapped.access import toolkit_of

_LANGUAGE_MODEL = "language model"
_NAMES = {
    "decoding": DECODE,
    "frame encoder": ENCODER,
    "selection": SELECTION,
    "vision tower (keyframes)": KEYFRAMES,
    "vision tower (references)": KEYFRAMES,
    "vision tower (non-keyframes)": OTHERS,
    "connector (references)": CONNECTOR,
    "connector (non-keyframes)": CONNECTOR,
    "merging": MERGING,
    _LANGUAGE_MODEL: PREFILL,
}
"""The stage of a profile for each stage of a report."""


@dataclass(frozen=True)
class Measurement:
    """The measurements of one run.

    Attributes:
        report: The call's report.
        prompt: The number of tokens that the language model read.
        seconds: Seconds by stage.
        memory: Peak bytes above the weights by stage; empty if the system does not report them.
        first_token: Seconds from opening the file to the first new token.
    """

    report: Report
    prompt: int
    seconds: dict[str, float]
    memory: dict[str, float]
    first_token: float

    @property
    def keyframes(self) -> int:
        """The number of slices that kept all their tokens."""
        return len(self.report.keyframes)


@dataclass(frozen=True)
class DrawnFrames:
    """A video of noise, generated while it is read, without a file or decoding."""

    count: int
    height: int
    width: int

    def __len__(self) -> int:
        return self.count

    def read(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        for index in indices.tolist():
            draw = np.random.default_rng(index)
            yield draw.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)


def measure(
    model: Any,
    processor: Any,
    video: Any,
    question: str,
    *,
    frames: int,
    new_tokens: int = 16,
    **generate_kwargs: Any,
) -> Measurement:
    """Measure reading a video and answering greedily with exactly ``new_tokens`` tokens.

    Run a short video first, so that loading the frame encoder and choosing kernels is not measured.

    Args:
        model: A wrapped model.
        video: A file, from which ``frames`` evenly spaced frames are read, or a `DrawnFrames`.
        **generate_kwargs: Passed to ``model.generate``.

    Raises:
        ValueError: The file has fewer frames.
    """
    meter = _Meter(vtc.pipeline.modules.input_device(model))
    started = perf_counter()
    with meter.stage("decoding"):  # includes the index of the file
        source = _opened(video, frames)
    inputs = vtc.prepare_inputs(model, processor, source, question)
    with watching(meter.stage):
        model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            stopping_criteria=[meter],
            **generate_kwargs,
        )
    report = vtc.last_report(model)
    ids = inputs["input_ids"]
    places = int((ids == toolkit_of(model).adapter.video_token_id(model)).sum())
    text = ids.shape[1] - places + report.text_after - report.text_before
    first = meter.first_token - started
    return Measurement(report, text + report.tokens_after, meter.seconds, meter.memory, first)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOPs per second of large square matrix products, a reference for the stages.

    It is the median of five products, 1024 x 1024 on the CPU and 8192 x 8192 elsewhere.
    """
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, device=device).to(dtype)
    seconds = []
    for _ in range(6):
        began = perf_counter()
        matrix @ matrix
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(perf_counter() - began)
    return 2 * size**3 / median(seconds[1:])  # the first one chooses a kernel


def measured(counted: LengthProfile, run: Measurement) -> LengthProfile:
    """Return the counts of a length with its measurements."""
    stages = tuple(
        replace(
            stage,
            seconds=run.seconds.get(stage.name, 0.0),
            measured_memory=run.memory.get(stage.name),
        )
        for stage in counted.stages
    )
    return replace(counted, stages=stages, first_token_seconds=run.first_token)


def _opened(video: Any, frames: int) -> VideoSource:
    if isinstance(video, DrawnFrames):
        return VideoSource(video)
    source = VideoSource(video, fps=None, max_frames=frames)
    if len(source) < frames:
        raise ValueError(
            f"expected a video of at least {frames} frames, got {len(source)} in {source.name}; "
            "give a longer video, fewer --frames, or no --video to use generated frames"
        )
    return source


class _Meter:
    """Measures the time and memory of stages; ``generate`` calls it after each new token."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self.first_token = 0.0
        gc.collect()
        self._memory = _CudaMemory(device) if device.type == "cuda" else _ResidentMemory()
        self._name, self._since = "", 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage of a report."""
        self._begin(_NAMES[name])
        try:
            yield
        finally:
            self._end()

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Never stop, but start the stage of token decoding at the first token."""
        if self._name == PREFILL:
            self._end()
            self.first_token = perf_counter()
            self._begin(TOKENS)
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    def _begin(self, name: str) -> None:
        self._memory.begin()
        self._name, self._since = name, perf_counter()

    def _end(self) -> None:
        peak = self._memory.end()
        name = self._name
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - self._since
        if peak is not None:
            self.memory[name] = max(self.memory.get(name, 0.0), peak)


class _CudaMemory:
    """Peak bytes of tensors, minus those at the start."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        torch.cuda.synchronize(device)
        self._before = torch.cuda.memory_allocated(device)

    def begin(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def end(self) -> float | None:
        torch.cuda.synchronize(self._device)
        return float(torch.cuda.max_memory_allocated(self._device) - self._before)


class _ResidentMemory:
    """Peak bytes of the process, sampled every few milliseconds, minus those at the start."""

    interval = 0.003

    def __init__(self) -> None:
        self._before = _resident()

    def begin(self) -> None:
        self._peak = _resident() or 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        if self._before is not None:
            self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(self.interval):
            self._peak = max(self._peak, _resident() or 0)

    def end(self) -> float | None:
        if self._before is None:
            return None
        self._done.set()
        self._thread.join()
        return float(max(self._peak, _resident() or 0) - self._before)


def _resident() -> int | None:
    """Return the resident memory of this process in bytes; None without /proc."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
