"""Run a cell: ask a model all questions and write each answer immediately."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import vtc
from vtc.encoders.lazy import LazyEncoder
from vtc.profiler.counters import MultiplyAccumulates
from vtc.wrapped.access import toolkit_of
from vtc_recipes.ablation.cells import Cell
from vtc_recipes.ablation.embeddings import KeepingEncoder, Shelf
from vtc_recipes.ablation.files import CONFIG, ENVIRONMENT, METRICS, PREDICTIONS
from vtc_recipes.ablation.models import encoder_identity, open_for
from vtc_recipes.ablation.questions import Item, count, questions
from vtc_recipes.evaluation.niah import answer_of, is_right
from vtc_recipes.evaluation.resuming import append_lines, read_lines
from vtc_recipes.synthetic.questions import covers

LOG = "log.txt"
_LIBRARIES = ("video-token-compression", "torch", "transformers", "numpy")


def run_cell(
    cell: Cell,
    source: str,
    folder: Path,
    shelf: Shelf,
    device: str,
    progress: Callable[[int, int], None],
) -> None:
    """Ask the remaining questions of a cell and write all its files.

    Args:
        cell: The configuration.
        source: The name or folder of the model.
        folder: The folder for the files. Answers already in it are kept.
        shelf: The store of frame embeddings.
        device: The device of the model.
        progress: Called with the number of answered questions and of all questions.

    Raises:
        ValueError: The model cannot be opened with these parts, its merger is untrained, or the
            folder has answers to other questions.
    """
    _write(folder / CONFIG, {"id": cell.id, "model_name": cell.setting.model, **cell.config})
    total = count(cell.setting.task)
    note(folder, f"started: {cell.label}, {total} questions")
    records = read_lines(folder / PREDICTIONS)
    if len(records) > total:
        raise ValueError(
            f"{folder / PREDICTIONS} has {len(records)} answers to {total} questions; remove the "
            "folder to ask this cell again"
        )
    model, processor = open_for(cell.setting, source, device)
    toolkit = toolkit_of(model)
    toolkit.replace_encoders(lambda encoder: _with_shelf(encoder, device, shelf))
    _write(folder / ENVIRONMENT, environment(toolkit, device))
    limit = cell.setting.max_new_tokens
    for number, item in enumerate(questions(cell.setting.task, cell.setting.seed)):
        progress(number, total)
        if number >= len(records):
            with shelf.open_video(item.video_id):
                record = ask(model, processor, item, cell.prompt, limit)
            append_lines(folder / PREDICTIONS, [record])
            records.append(record)
            note(folder, f"question {item.id}: {'right' if record['right'] else 'wrong'}")
        elif (found := records[number].get("id")) != item.id:
            raise ValueError(
                f"{folder / PREDICTIONS}, line {number + 1}: expected an answer to question "
                f"{item.id}, got one to {found}; remove the folder to ask this cell again"
            )
    progress(total, total)
    first = next(questions(cell.setting.task, cell.setting.seed))
    counter = MultiplyAccumulates()  # type: ignore[no-untyped-call]
    with shelf.open_video(first.video_id), counter:
        ask(model, processor, first, cell.prompt, limit)  # its frames are already embedded
    _write(folder / METRICS, {**summary(records), "macs": counter.count})
    note(folder, f"finished: {sum(record['right'] for record in records)} of {total} right")


def ask(model: Any, processor: Any, item: Item, prompt: str, limit: int) -> dict[str, Any]:
    """Ask one question.

    Returns:
        A line of ``predictions.jsonl``. ``seconds`` exclude the frame encoder, whose work is
        shared.
    """
    text = prompt.format(question=item.question, choices=", ".join(item.choices))
    start = perf_counter()
    answer = vtc.ask(model, processor, item.video(), text, max_new_tokens=limit, do_sample=False)
    seconds, report = perf_counter() - start, answer.report
    encoder = report.stages["frame encoder"].seconds if "frame encoder" in report.stages else 0.0
    keyframes = [frame.index for frame in report.keyframes]
    return {
        "id": item.id,
        "kind": item.kind,
        "question": text,
        "answer": item.answer,
        "text": answer.text,
        "right": is_right(answer_of(answer.text, item.kind), item.answer),
        "covered": None if item.evidence is None else covers(keyframes, item.evidence),
        "chance": 1 / len(item.choices) if item.choices else 0.0,
        "keyframes": keyframes,
        "tokens_before": report.tokens_before + report.text_before,
        "tokens_after": report.tokens_after + report.text_after,
        "seconds": round(seconds - encoder, 4),
        "encoder_seconds": round(encoder, 4),
        "warnings": report.warnings,
    }


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over all questions of a cell."""

    def mean(name: str) -> float:
        return float(sum(record[name] for record in records) / len(records))

    return {
        "questions": len(records),
        "accuracy": mean("right"),
        "coverage": None if records[0]["covered"] is None else mean("covered"),
        "chance": mean("chance"),
        "tokens_before": mean("tokens_before"),
        "tokens_after": mean("tokens_after"),
        "seconds": mean("seconds"),
        "encoder_seconds": mean("encoder_seconds"),
    }


def environment(toolkit: Any, device: str) -> dict[str, Any]:
    """Describe the machine and the libraries that a cell ran on."""
    names = {("selector", toolkit.name_of(toolkit.selector))}
    names.add(("merger", toolkit.name_of(toolkit.merger)))
    place = torch.device(device)
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "parts": {
            f"{part.kind} {part.name}": f"{part.distribution} {part.version}"
            for part in vtc.parts()
            if (part.kind, part.name) in names
        },
        "command": sys.argv,
    }


def note(folder: Path, text: str) -> None:
    """Append a line with the time to the log."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with (folder / LOG).open("a", encoding="utf-8") as lines:
        lines.write(f"{now} {text}\n")


def _with_shelf(encoder: LazyEncoder, device: str, shelf: Shelf) -> LazyEncoder:
    identity = {**encoder_identity(encoder.name), "device": torch.device(device).type}
    return KeepingEncoder(encoder, json.dumps(identity), shelf)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
