"""Score the runs of a benchmark by question and by group, with a table like the paper's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtc_recipes.evaluation.bootstrap import wilson
from vtc_recipes.evaluation.harness.layout import ROW, Benchmark, Question, task_name
from vtc_recipes.evaluation.harness.requests import Prediction
from vtc_recipes.evaluation.harness.tasks import Task
from vtc_recipes.evaluation.resuming import read_lines

Record = dict[str, Any]
METHOD = "method"
"""The name of the run with the user's own parts; all other runs are controls."""
_LETTER = re.compile(r"\b[A-H]\b")
_MOST_COLUMNS = 6
_TITLES = {
    "uniform": "uniform frames, same tokens",
    "downsample": "plain downsampling, same tokens",
    "random": "random keyframes, same tokens",
    "no_video": "no video",
}


def records_of(
    benchmark: Benchmark,
    prepared: Path,
    run: str,
    predictions: Iterable[Prediction],
    samples: Callable[[str], Sequence[Mapping[str, Any]]],
) -> list[Record]:
    """Return a record for each question of a run.

    Args:
        prepared: The folder that `layout.prepare` wrote.
        run: The name of the run.
        predictions: The model's predictions.
        samples: Returns the harness's records of a task, in the order of the prepared rows.

    Returns:
        ``id`` (part and number in the user's annotations), ``video``, ``groups``, ``options``,
        ``right`` (None if only a server knows), the annotated ``answer``, and the fields of the
        prediction. A missing answer is wrong.

    Raises:
        RuntimeError: The harness skipped questions.
    """
    task = benchmark.task
    by_row = {(p.task, p.doc): p for p in predictions}
    by_number = {(q.part, q.number): q for q in benchmark.questions}
    records = []
    for part in dict.fromkeys(question.part for question in benchmark.questions):
        name = task_name(benchmark.name, part)
        numbers = _row_numbers(prepared / "annotations" / name / f"{task.split}.jsonl")
        results = samples(name)
        if len(results) != len(numbers):
            raise RuntimeError(
                f"lmms-eval scored {len(results)} of {len(numbers)} questions of {name}"
            )
        for number, sample in zip(numbers, results, strict=True):
            prediction = by_row.get((name, number))
            if prediction is None:
                raise RuntimeError(f"the model wrote no prediction for row {number} of {name}")
            records.append(_record(by_number[part, number], task, run, prediction, sample))
    return sorted(records, key=lambda record: (record["part"], record["number"]))


def _record(
    question: Question, task: Task, run: str, prediction: Prediction, sample: Mapping[str, Any]
) -> Record:
    right = None if task.metric == "submission" else task.is_right(sample[task.metric])
    values = {**question.row, "part": question.part}
    return {
        "run": run,
        "part": question.part,
        "number": question.number,
        "video": question.video.name,
        "groups": {name: values[name] for name in task.groups if values.get(name) is not None},
        "options": task.options(question.row),
        "right": right and prediction.error is None,
        "answer": sample.get("target"),
        "text": prediction.text,
        "error": prediction.error,
        "frames": prediction.frames,
        "keyframes": list(prediction.keyframes),
        "tokens_before": prediction.tokens_before,
        "tokens_after": prediction.tokens_after,
        "seconds": prediction.seconds,
        "together": prediction.together,
        "warnings": list(prediction.warnings),
    }


def _row_numbers(file: Path) -> list[int]:
    return [int(row[ROW]) for row in read_lines(file)]


def summarise(records: Sequence[Record], task: Task) -> dict[str, Any]:
    """Return the scores of a run.

    Returns:
        ``all``, and ``groups`` by field and value, each with ``n``, ``right``, ``share``,
        ``interval`` (Wilson, 95 %) and ``chance``; ``score``, the mean over all questions or over
        groups, as the benchmark defines it; means of frames, keyframes, tokens and seconds over
        answered questions; ``errors``; and ``no_letter``, the number of answers that name no
        option.
    """
    scored = [record for record in records if record["right"] is not None]
    groups: dict[str, dict[str, Any]] = {}
    for field in task.groups:
        values: dict[str, list[Record]] = {}
        for record in scored:
            names = record["groups"].get(field, [])
            for value in names if isinstance(names, list) else [names]:
                values.setdefault(str(value), []).append(record)
        groups[field] = {value: _share(rows) for value, rows in sorted(values.items())}
    overall = _share(scored) if scored else None
    score = overall["share"] if overall else None
    first = groups.get(task.groups[0], {}) if task.groups else {}
    if task.mean_of_groups and first:
        score = sum(group["share"] for group in first.values()) / len(first)
    answered = [record for record in records if record["error"] is None]
    multiple_choice = [record for record in answered if record["options"]]
    return {
        "all": overall,
        "score": score,
        "groups": groups,
        "frames": _mean(record["frames"] for record in answered),
        "keyframes": _mean(len(record["keyframes"]) for record in answered),
        "tokens_before": _mean(record["tokens_before"] for record in answered),
        "tokens": _mean(record["tokens_after"] for record in answered),
        "seconds": _mean(record["seconds"] for record in answered),
        "errors": len(records) - len(answered),
        "no_letter": sum(not _LETTER.search(record["text"]) for record in multiple_choice),
    }


def _share(records: Sequence[Record]) -> dict[str, Any]:
    right = sum(record["right"] for record in records)
    chances = [1 / record["options"] if record["options"] else 0.0 for record in records]
    return {
        "n": len(records),
        "right": right,
        "share": right / len(records),
        "interval": wilson(right, len(records)),
        "chance": _mean(chances),
    }


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / max(1, len(numbers))


def columns_of(task: Task, summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the groups to show in the table: those of the task's first field, if they are few."""
    if not task.groups:
        return []
    values = summaries[METHOD]["groups"].get(task.groups[0], {})
    order = ["short", "medium", "long"]
    names = sorted(values, key=lambda name: (order.index(name) if name in order else 9, name))
    return names if len(names) <= _MOST_COLUMNS else []


def table(
    name: str,
    task: Task,
    label: str,
    size: int,
    fps: float,
    summaries: Mapping[str, Mapping[str, Any]],
) -> str:
    """Format the results in the form of Table 1 of ViLAMP, as Markdown.

    Args:
        label: The label of the method's row.
        size: Number of parameters of the model.
        summaries: The results of `summarise`, by run.
    """
    columns = columns_of(task, summaries)
    overall = "Mean of groups" if task.mean_of_groups else "Overall"
    head = ["Model", "Size", "Frames", "Keyframes", "Tokens", "s", overall, "95 %", *columns]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for run, values in summaries.items():
        all_, groups = values["all"], values["groups"].get(task.groups[0], {}) if columns else {}
        low, high = (100 * end for end in all_["interval"]) if all_ else (0, 0)
        row = [
            label if run == METHOD else _TITLES[run],
            _size(size),
            f"{values['frames']:.0f}",
            f"{values['keyframes']:.1f}",
            f"{values['tokens']:.0f}",
            f"{values['seconds']:.2f}",
            "-" if values["score"] is None else f"{100 * values['score']:.1f}",
            f"{low:.1f}-{high:.1f}" if all_ else "-",
            *(f"{100 * groups[c]['share']:.1f}" if c in groups else "-" for c in columns),
        ]
        lines.append("| " + " | ".join(row) + " |")
    for model, results in task.paper.items():
        frames = "1 FPS" if "ViLAMP" in model else "32"
        keyframes = "32" if "ViLAMP" in model else "-"
        row = [model, "7B", frames, keyframes, "-", "-", f"{results['']:.1f}", "-"]
        row += [f"{results[column]:.1f}" if column in results else "-" for column in columns]
        lines.append("| " + " | ".join(row) + " |")
    first = summaries[METHOD]
    n = first["all"]["n"] if first["all"] else 0
    notes = [f"{name}: {n} questions, {fps:g} FPS."]
    if first["all"] and first["all"]["chance"]:
        notes[0] += f" Chance: {100 * first['all']['chance']:.1f} %."
    if task.paper:
        notes.append(f"Rows of the paper: {task.source} of ViLAMP; its models were not run here.")
    if task.mean_of_groups:
        notes.append("The interval (Wilson) is for the accuracy over all questions.")
    if task.note:
        notes.append(f"Note: {task.note}.")
    for run, values in summaries.items():
        if values["errors"]:
            notes.append(f"{run}: {values['errors']} questions have no answer and count as wrong.")
        if values["no_letter"]:
            notes.append(f"{run}: {values['no_letter']} answers name no option.")
    return "\n".join([*lines, "", *notes])


def group_table(summary: Mapping[str, Any]) -> str:
    """Format the scores of a run by group, with Wilson's intervals, as Markdown."""
    lines = ["| group | n | right, % | 95 % | chance, % |", "|---|---:|---:|---:|---:|"]
    rows = {"all": summary["all"]} if summary["all"] else {}
    for field, values in summary["groups"].items():
        rows |= {f"{field}: {value}": share for value, share in values.items()}
    for name, share in rows.items():
        low, high = (100 * end for end in share["interval"])
        lines.append(
            f"| {name} | {share['n']} | {100 * share['share']:.1f} | {low:.1f}-{high:.1f} | "
            f"{100 * share['chance']:.1f} |"
        )
    return "\n".join(lines)


def _size(parameters: int) -> str:
    """Format a number of parameters as papers do.

    >>> _size(8_030_000_000), _size(1_600_000)
    ('8.0B', '1.6M')
    """
    unit, name = (1e9, "B") if parameters >= 1e9 else (1e6, "M")
    return f"{parameters / unit:.1f}{name}"
