"""Needles in video haystacks: scores, and runs that resume.

After VideoNIAH (section 5.3 of ViLAMP): a short video, the needle, is inserted at some depth into
an unrelated video, and the question is about the needle only. There are two scores:

* **coverage**: the fraction of cases whose keyframes hit every range of the evidence. It needs a
  selector and a frame encoder, but no language model.
* **accuracy**: the fraction of cases that a wrapped model answers correctly, word for word.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt

import vtc
from vtc.encoders.base import FrameEncoder
from vtc.encoders.lazy import LazyEncoder
from vtc.pipeline.report import Recorder, Report
from vtc.pipeline.selection import embed_query, select_frames
from vtc.plugins import registry
from vtc_recipes.evaluation.resuming import (
    append_lines,
    claim_settings,
    lock_folder,
    read_lines,
    write_json,
)
from vtc_recipes.schema import Fraction, Row, parse
from vtc_recipes.synthetic.cases import Case, read_cases, write_cases
from vtc_recipes.synthetic.questions import covers
from vtc_recipes.synthetic.stories import STORIES, final_answer

Score = Callable[[Case], dict[str, Any]]
"""A function that scores a case and returns a record with ``score`` (0 to 1) and more values."""


def coverage(selector: Any, encoder: str | FrameEncoder, device: str = "cpu") -> Score:
    """Return a `Score` that is 1 if the keyframes cover the evidence, else 0.

    Args:
        selector: A selector, its name or its options, as for ``vtc.wrap``.
        encoder: The frame encoder, unless the selector names its own; loaded on first use.
        device: Device of the encoder.

    Returns:
        A `Score` whose records contain ``keyframes``, the indices of all keyframes, and
        ``warnings``.
    """
    part = registry.build_part("selector", selector)
    name = registry.spec_of(part)["name"]
    lazy = LazyEncoder(part.encoder or encoder, device=device)

    def score(case: Case) -> dict[str, Any]:
        source, recorder = case.video(), Recorder(Report(selector={}, merger={}))
        selection = select_frames(
            part,
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
            "warnings": [*source.warnings, *recorder.report.warnings],
        }

    return score


def accuracy(
    model: Any, processor: Any, prompt: str = "{question}", **generate_kwargs: Any
) -> Score:
    """Return a `Score` that is 1 if a wrapped model gives the right answer, else 0; see `is_right`.

    Args:
        model: A model that ``vtc.wrap`` returned.
        processor: Its stock processor.
        prompt: Text of the prompt, with ``{question}`` and ``{choices}`` to fill in.
        **generate_kwargs: Passed to ``model.generate``.

    Returns:
        A `Score` whose records contain ``text``, the answer; ``covered``, whether the keyframes
        cover the evidence; and ``warnings``, those of the report.

    Raises:
        ValueError: The prompt has unknown names in braces.
    """

    try:
        prompt.format(question="", choices="")
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"expected only {{question}} and {{choices}} in the braces of prompt, got {prompt!r}"
        ) from error

    def score(case: Case) -> dict[str, Any]:
        text = prompt.format(question=case.question, choices=", ".join(case.choices))
        source = case.video()
        answer = vtc.ask(model, processor, source, text, **generate_kwargs)
        keyframes = [frame.index for frame in answer.report.keyframes]
        return {
            "score": float(is_right(answer_of(answer.text, case.kind), case.answer)),
            "text": answer.text,
            "covered": covers(keyframes, case.evidence),
            "warnings": answer.report.warnings,
        }

    return score


def answer_of(text: str, kind: str) -> str:
    """Return the answer in a model's text: of a story the last words, after the list of events."""
    return final_answer(text) if kind in STORIES else text


def is_right(text: str, answer: str) -> bool:
    """Return whether a text is the answer, ignoring case and surrounding punctuation.

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
    """Score cases, and write each record immediately.

    The folder gets ``cases.jsonl``, ``settings.json``, ``records.jsonl`` (one line per case) and
    ``results.json`` (see `cell_means`). If it holds records of the same cases and settings, the
    run resumes after them.

    Args:
        cases: The cases.
        score: The result of `coverage` or `accuracy`, or your own function.
        folder: Folder for the results; created if missing.
        settings: Everything on which the scores depend, as plain JSON: selector, encoder, model.
        progress: Called with the number of finished cases and of all cases.

    Returns:
        One record per case, in order: its index, length and depth, ``score``, ``seconds``.

    Raises:
        ValueError: The folder holds results of other cases or settings, a record in it is invalid,
            or another process is using it.
    """
    target = Path(folder)
    with lock_folder(target):
        file = target / "records.jsonl"
        lines = read_lines(file)
        _claim(target, cases, settings, bool(lines))
        records = {record["case"]: record for record in _checked(file, lines, cases)}
        progress(len(records), len(cases))
        for number, case in enumerate(cases):
            if number in records:
                continue
            began = perf_counter()
            record = {"case": number, "length": case.length, "depth": case.depth, **score(case)}
            record["seconds"] = round(perf_counter() - began, 3)
            append_lines(file, [record])
            records[number] = record
            progress(len(records), len(cases))
        ordered = [records[number] for number in range(len(cases))]
        write_json(target / "results.json", cell_means(ordered))
    return ordered


def cell_means(records: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return the mean score by length and depth, in the usual format of needle tests.

    Returns:
        ``[{"Num. Frame": 64, "Frame Depth": 25.0, "Score": 0.9}, ...]``: frames, %, 0 to 1.
    """
    cells: dict[tuple[int, float], list[float]] = defaultdict(list)
    for record in records:
        cells[record["length"], record["depth"]].append(record["score"])
    return [
        {"Num. Frame": length, "Frame Depth": 100 * depth, "Score": sum(scores) / len(scores)}
        for (length, depth), scores in sorted(cells.items())
    ]


def _plain(text: str) -> str:
    return text.strip().strip(".,;:!?\"'").strip().lower()


def _claim(folder: Path, cases: Sequence[Case], settings: Mapping[str, Any], started: bool) -> None:
    """Write the cases and settings of a run, or check them against those in the folder."""
    kept_cases, kept_settings = folder / "cases.jsonl", folder / "settings.json"
    if not started:
        write_cases(kept_cases, cases)
        write_json(kept_settings, dict(settings))
        return
    for file in (kept_cases, kept_settings):
        if not file.exists():
            raise ValueError(f"{folder} holds results but no {file.name}; choose another folder")
    if read_cases(kept_cases) != list(cases):
        raise ValueError(f"{folder} holds results of other cases; choose another folder")
    claim_settings(folder, settings)


def _checked(
    file: Path, lines: Sequence[dict[str, Any]], cases: Sequence[Case]
) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file of records, each of another case."""
    seen: set[int] = set()
    for line, values in enumerate(lines, start=1):
        record = parse(_Record, values, f"{file}, line {line}")
        if record.case in seen or record.case >= len(cases):
            raise ValueError(
                f"{file}, line {line}: expected the record of another of {len(cases)} cases, got "
                f"case {record.case}; remove the line, or choose another folder"
            )
        seen.add(record.case)
        yield values


class _Record(Row):
    """The values of a record that each run reads again."""

    case: NonNegativeInt
    length: PositiveInt
    depth: Fraction
    score: Fraction
