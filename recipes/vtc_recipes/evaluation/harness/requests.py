"""Requests of a harness, and a model's predictions as lines of a file."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vtc.interfaces.part import require
from vtc_recipes.evaluation.resuming import append_lines, read_lines

_OPTION = re.compile(r"\s*\(?A[).:]")
_GENERATION = ("max_new_tokens", "num_beams", "temperature", "top_p", "top_k", "do_sample")


@dataclass(frozen=True)
class Request:
    """One question of a harness.

    Attributes:
        task: The name of the harness's task.
        doc: The index of its row, the same in each run.
        messages: ``[{"role": "user", "content": [{"type": "video", "url": FILE}, ...]}]``.
        generation: Arguments of ``generate``.
        until: Texts that end an answer.
        query: The query for selecting keyframes; None for the text of the last message.
    """

    task: str
    doc: int
    messages: list[dict[str, Any]]
    generation: dict[str, Any]
    until: tuple[str, ...] = ()
    query: str | None = None

    @property
    def key(self) -> str:
        """A hash of the question and its settings, the same in each run."""
        question = (self.task, self.doc, _hashable(self.messages), self.query)
        values = (*question, self.generation, self.until)
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hashable(value: Any) -> Any:
    """Replace pictures with hashes of their pixels."""
    if isinstance(value, Mapping):
        return {str(key): _hashable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hashable(item) for item in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    return hashlib.sha256(value.tobytes()).hexdigest()


def read_generation(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a task's arguments for ``generate``, and the texts that end an answer.

    A temperature of 0 means greedy search; unknown options are dropped.

    >>> read_generation({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "until": "\\n"})
    ({'max_new_tokens': 16, 'do_sample': False}, ('\\n',))
    """
    arguments = {name: values[name] for name in _GENERATION if values.get(name) is not None}
    if not arguments.get("temperature"):
        arguments = {
            n: v for n, v in arguments.items() if n not in ("temperature", "top_p", "top_k")
        }
        arguments["do_sample"] = False
    else:
        arguments["do_sample"] = True
    until = values.get("until") or ()
    return arguments, (until,) if isinstance(until, str) else tuple(until)


def question_of(row: Mapping[str, Any]) -> str | None:
    """Return the question of a benchmark's row, without its options.

    >>> question_of({"question": "What is red?\n(A) a star\n(B) a moon"})
    'What is red?'
    """
    text = row.get("question", row.get("input"))
    if not isinstance(text, str):
        return None
    lines = itertools.takewhile(lambda line: not _OPTION.match(line), text.splitlines())
    return "\n".join(lines).strip() or None


@dataclass(frozen=True)
class Prediction:
    """The answer to a request, or the reason why there is none.

    Attributes:
        key: The key of the request.
        task, doc: As in `Request`.
        text: The answer; empty if there is none.
        error: Why there is no answer.
        frames: Number of frames read.
        keyframes: Times of the keyframes in seconds (indices if the video has no times).
        tokens_before, tokens_after: Visual tokens of the bare and of the wrapped model.
        per_frame: Visual tokens of a slice that keeps all of them.
        seconds: Time of the pass, divided equally among its questions.
        together: Number of questions in the pass.
        warnings: Warnings of the report.
    """

    key: str
    task: str
    doc: int
    text: str = ""
    error: str | None = None
    frames: int = 0
    keyframes: tuple[float, ...] = ()
    tokens_before: int = 0
    tokens_after: int = 0
    per_frame: int = 0
    seconds: float = 0.0
    together: int = 1
    warnings: tuple[str, ...] = ()


class PredictionFile:
    """The predictions of a run; each of its processes appends to its own file.

    Args:
        folder: The folder of ``predictions-0.jsonl`` and so on; None stores nothing.
        rank: The rank of this process.

    Raises:
        ValueError: Another run is writing to the file, or a line in the folder is damaged.
    """

    def __init__(self, folder: Path | None, rank: int = 0) -> None:
        self._file = None if folder is None else folder / f"predictions-{rank}.jsonl"
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._file.with_suffix(".lock"), timeout=0)
            try:
                self._lock.acquire()  # held until the process exits
            except Timeout:
                raise ValueError(
                    f"another run is writing to {self._file}; wait for it, or stop it"
                ) from None
        self.kept = {} if folder is None else read_predictions(folder)

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Store predictions and sync them to disk."""
        predictions = list(predictions)
        self.kept |= {prediction.key: prediction for prediction in predictions}
        if self._file is not None:
            append_lines(self._file, map(asdict, predictions))


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """Return the predictions in a folder by key: the last without an error, else the last.

    Raises:
        ValueError: A line is damaged.
    """
    predictions: dict[str, Prediction] = {}
    for file in sorted(folder.glob("predictions-*.jsonl")):
        for number, values in enumerate(read_lines(file), 1):
            try:
                lists = {name: tuple(values[name]) for name in ("keyframes", "warnings")}
                prediction = Prediction(**{**values, **lists})
            except (KeyError, TypeError) as error:
                raise ValueError(f"{file}, line {number} is damaged; delete the line") from error
            before = predictions.get(prediction.key)
            if before is None or before.error is not None or prediction.error is None:
                predictions[prediction.key] = prediction
    return predictions


def cut(text: str, until: tuple[str, ...]) -> str:
    """Return a text up to the first occurrence of any of the given texts."""
    ends = [place for end in until if end and (place := text.find(end)) >= 0]
    return text[: min(ends)] if ends else text


def check_together(together: int) -> None:
    """Raise a ValueError unless the number of questions in a pass is at least 1."""
    require(together >= 1, "questions in a pass", together, ">= 1")
