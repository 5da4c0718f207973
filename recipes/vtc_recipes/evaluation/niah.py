"""Needles in video haystacks: cases, scores, and a run that can be continued.

After VideoNIAH (section 5.3 of ViLAMP): a short video, the needle, is put at some depth into
another that has nothing to do with it, and the question is about the needle alone. Two scores:

* **coverage** - how often the keyframes hold a frame of every range that the answer needs. It
  takes a selector and a frame encoder, no language model.
* **accuracy** - how often a wrapped model gives the right answer, word for word.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import vtc
from vtc.encoders.base import FrameEncoder
from vtc.encoders.lazy import LazyEncoder
from vtc.pipeline.report import Recorder, Report
from vtc.pipeline.selection import embed_query, select_frames
from vtc.plugins import registry
from vtc.plugins.sections import load_json, parse_json
from vtc_recipes.synthetic.cases import Case, read_cases, write_cases
from vtc_recipes.synthetic.questions import covers

Score = Callable[[Case], dict[str, Any]]
"""Runs a case: ``score`` from 0 to 1, and whatever else is worth keeping."""


def coverage(selector: Any, encoder: str | FrameEncoder, device: str = "cpu") -> Score:
    """Score whether the keyframes hold the evidence: 1 or 0.

    Args:
        selector: A selector or what names one, as ``vtc.wrap`` takes it.
        encoder: The frame encoder, unless the selector names its own; loaded at its first use.
        device: Where the encoder runs.

    Returns:
        A `Score`, whose records hold ``keyframes``, all frame numbers that were chosen, and
        ``warnings``, what was lost while reading.
    """
    chosen = registry.build_part("selector", selector)
    name = registry.spec_of(chosen)["name"]
    lazy = LazyEncoder(chosen.encoder or encoder, device=device)

    def score(case: Case) -> dict[str, Any]:
        source, recorder = case.video(), Recorder(Report(selector={}, merger={}))
        selection = select_frames(
            chosen,
            lazy,
            (torch.from_numpy(chunk.frames) for chunk in source.chunks()),
            len(source),
            torch.as_tensor(source.timestamps),
            partial(embed_query, lazy, case.question, recorder),
            recorder,
            name,
        )
        keyframes = selection.keyframes.tolist()
        return {
            "score": float(covers(keyframes, case.evidence)),
            "keyframes": keyframes,
            "warnings": source.warnings,
        }

    return score


def accuracy(
    model: Any, processor: Any, prompt: str = "{question}", **generate_kwargs: Any
) -> Score:
    """Score the answer of a wrapped model: 1 if it is the right one, word for word, else 0.

    Upper and lower case, and signs around the answer, do not count.

    Args:
        model: A model that ``vtc.wrap`` returned.
        processor: Its stock processor.
        prompt: What to ask; ``{question}`` and ``{choices}`` are filled in.
        **generate_kwargs: Passed to ``model.generate``.

    Returns:
        A `Score`, whose records hold ``text``, the answer, ``covered``, whether the keyframes hold
        the evidence, and ``warnings``, what was lost while reading.

    Raises:
        ValueError: Something else stands in the prompt's braces.
    """

    try:
        prompt.format(question="", choices="")
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"prompt={prompt!r}: allowed in braces are {{question}} and {{choices}}"
        ) from error

    def score(case: Case) -> dict[str, Any]:
        asked = prompt.format(question=case.question, choices=", ".join(case.choices))
        source = case.video()
        answer = vtc.ask(model, processor, source, asked, **generate_kwargs)
        keyframes = [frame.index for frame in answer.report.keyframes]
        return {
            "score": float(is_right(answer.text, case.answer)),
            "text": answer.text,
            "covered": covers(keyframes, case.evidence),
            "warnings": source.warnings,
        }

    return score


def is_right(text: str, answer: str) -> bool:
    """Whether a model's text is the answer, word for word, but for case and signs around it.

    >>> is_right("Red.", "red"), is_right("the red one", "red")
    (True, False)
    """
    return _plain(text) == _plain(answer)


def run(
    cases: Sequence[Case],
    score: Score,
    folder: str | os.PathLike[str],
    settings: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Score cases, and keep each result as soon as it is there.

    The folder gets ``cases.jsonl``, ``settings.json``, ``records.jsonl`` (one line a case) and
    ``results.json`` (one mean a length and depth, see `cell_means`). A folder that has records
    of the same cases and settings already is continued: what is done is not done again.

    Args:
        cases: What to run.
        score: `coverage` or `accuracy`, or your own.
        folder: Where the results go; made if missing.
        settings: What makes the scores what they are, in plain JSON: selector, encoder, model.
        progress: Called with the cases done and the cases in all.

    Returns:
        One record a case, in order: the case's number and place, ``score``, ``seconds``.

    Raises:
        ValueError: The folder holds results of other cases or settings.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _claim(target, cases, dict(settings))
    file = target / "records.jsonl"
    records = read_records(file)
    progress(len(records), len(cases))
    with file.open("a", encoding="utf-8") as lines:
        for number in range(len(records), len(cases)):
            case, began = cases[number], perf_counter()
            record = {"case": number, "length": case.length, "depth": case.depth, **score(case)}
            record["seconds"] = round(perf_counter() - began, 3)
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            records.append(record)
            progress(number + 1, len(cases))
    results = json.dumps(cell_means(records), indent=2)
    (target / "results.json").write_text(results + "\n", encoding="utf-8")
    return records


def cell_means(records: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The mean score for each length and depth, as heat maps of needle tests commonly have it.

    Returns:
        ``[{"Num. Frame": 64, "Frame Depth": 25.0, "Score": 0.9}, ...]``: frames, per cent, 0-1.
    """
    cells: dict[tuple[int, float], list[float]] = defaultdict(list)
    for record in records:
        cells[record["length"], record["depth"]].append(record["score"])
    return [
        {"Num. Frame": length, "Frame Depth": 100 * depth, "Score": sum(found) / len(found)}
        for (length, depth), found in sorted(cells.items())
    ]


def _plain(text: str) -> str:
    return text.strip().strip(".,;:!?\"'").strip().lower()


def _claim(folder: Path, cases: Sequence[Case], settings: dict[str, Any]) -> None:
    """Write down what is run here, or check that it is what was run here before."""
    kept_cases, kept_settings = folder / "cases.jsonl", folder / "settings.json"
    if kept_settings.exists() and read_records(folder / "records.jsonl"):
        if read_cases(kept_cases) != list(cases):
            raise ValueError(f"{folder} holds results of other cases: give another folder")
        if (before := load_json(kept_settings)) != settings:
            raise ValueError(
                f"{folder} holds results of {before}, not of {settings}: give another folder"
            )
        return
    write_cases(kept_cases, cases)
    kept_settings.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records that were written whole; the rest of a line that was cut off is removed."""
    if not file.exists():
        return []
    whole, newline, rest = file.read_bytes().rpartition(b"\n")
    if rest:
        file.write_bytes(whole + newline)
    lines = enumerate(whole.decode().splitlines(), start=1)
    return [parse_json(line, f"{file}, line {number}") for number, line in lines]
