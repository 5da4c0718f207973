"""``vtc evaluate actions``: action recognition as multiple choice (Table 4 of ViLAMP)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, print_line

INSTRUCTION = "\nAnswer with the option's letter or number only."
_PAPER = {
    "ucf101": ("accuracy", 97.6),
    "something_v2": ("accuracy", 86.9),
    "activitynet": ("map", 78.6),
}
_DRAWS = 100


@options.grouped
def actions(
    benchmark: Annotated[
        Literal["ucf101", "something_v2", "activitynet"], typer.Argument(help="The data set.")
    ],
    annotations: Annotated[Path, typer.Option(help="Folder, or file, of annotations.")],
    videos: Annotated[Path, typer.Option(help="Folder of videos.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the results; the same command resumes a run in it.")
    ],
    model_options: ModelOptions,
    frames: options.FrameOptions,
    options_: Annotated[
        str, typer.Option("--options", help="Number of answer options, such as 4 or 8, or all.")
    ] = "4",
    distractors: Annotated[
        Literal["random", "similar"], typer.Option(help="How to choose the wrong options.")
    ] = "random",
    similar_by: Annotated[
        str, typer.Option(help="Frame encoder that compares labels for similar distractors.")
    ] = "open_clip:ViT-B-32/openai",
    limit: Annotated[
        options.Count, typer.Option(min=1, help="Use this many random videos.")
    ] = None,
    query: Annotated[
        Literal["question", "prompt"],
        typer.Option(help="Select keyframes for the question only, or for the whole prompt."),
    ] = "question",
    only_present: Annotated[
        bool, typer.Option("--only-present", help="Skip missing videos.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of videos and options.")] = 0,
    questions_only: Annotated[
        bool,
        typer.Option(
            "--questions-only", help="Write OUT/questions.jsonl for vtc ablate, and exit."
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Score a model on UCF-101, Something-Something V2 or ActivityNet, as multiple choice.

    Prints the accuracy of the most likely option and the mAP of the options' probabilities, each
    with its chance level.
    """
    from vtc_recipes.evaluation.actions import make_questions, parse_count
    from vtc_recipes.evaluation.resuming import (
        claim_settings,
        lock_folder,
        model_files,
        resumable,
        write_json,
        write_lines,
    )

    rows = make_questions(
        benchmark,
        annotations,
        videos,
        count=parse_count(options_),
        similar_by=similar_by if distractors == "similar" else None,
        limit=limit,
        seed=seed,
        only_present=only_present,
    )
    settings = {
        "benchmark": benchmark,
        "options": options_,
        "distractors": similar_by if distractors == "similar" else distractors,
        "seed": seed,
        "query": query,
        **asdict(model_options),
        **asdict(frames),
        "model_files": model_files(model_options.model),
    }
    with resumable(out), lock_folder(out):
        if not questions_only:
            claim_settings(out, settings)
        plain = ({k: v for k, v in row.items() if k != "options"} for row in rows)
        write_lines(out / "questions.jsonl", plain)
        if questions_only:
            file = out / "questions.jsonl"
            if as_json:
                print_json({"file": str(file), "questions": len(rows)})
            else:
                print_line(f"{len(rows)} questions in {file}")
            return
        records = _score(rows, model_options, frames, query, out / "records.jsonl", as_json)
        results = summarise(records)
        write_json(out / "results.json", {"settings": settings, **results})
    if as_json:
        print_json({"settings": settings, **results})
        return
    _print(benchmark, options_, distractors, results, out)


def _score(
    rows: Sequence[Mapping[str, Any]],
    model_options: ModelOptions,
    frames: options.FrameOptions,
    query: str,
    file: Path,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Return a record for each row; rows with a record in the file are not asked again."""
    from vtc.cli.show import progress_bars
    from vtc_recipes.evaluation.resuming import append_lines, read_lines

    records = {record["video"]: record for record in read_lines(file) if record["error"] is None}
    missing = [row for row in rows if row["video"] not in records]
    if missing:
        score = _scorer(model_options, frames, query, quiet)
        with progress_bars(quiet=quiet) as show:
            for number, row in enumerate(missing, len(rows) - len(missing) + 1):
                record = records[row["video"]] = score(row)
                append_lines(file, [record])
                show("videos", number, len(rows))
    return [records[row["video"]] for row in rows]


def _scorer(
    model_options: ModelOptions, frames: options.FrameOptions, query: str, quiet: bool
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Load the model; return a function that scores a row."""
    from vtc.video import VideoError
    from vtc.wrapped.access import toolkit_of
    from vtc_recipes.evaluation.actions import QUESTION
    from vtc_recipes.evaluation.choices import option_scores

    model, processor = model_options.open(quiet=quiet)
    toolkit_of(model).heat_frames = 0

    def score(row: Mapping[str, Any]) -> dict[str, Any]:
        start = perf_counter()
        right = row["choices"].index(row["answer"])
        record = {"video": row["video"], "options": row["options"], "right": right, "error": None}
        try:
            source = frames.open(row["video"])
            scores, report = option_scores(
                model,
                processor,
                source,
                row["question"] + INSTRUCTION,
                row["choices"],
                query=QUESTION if query == "question" else None,
            )
        except VideoError as error:
            return {**record, "scores": None, "error": " ".join(str(error).split())}
        return {
            **record,
            "scores": scores,
            "tokens": report.tokens_after,
            "keyframes": len(report.keyframes),
            "seconds": round(perf_counter() - start, 4),
        }

    return score


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return accuracy and mAP over clips, each with its 95 % interval and chance level.

    A clip without an answer counts as wrong, and all its options score 0. The chance level of the
    mAP is the mean over 100 draws of random scores.
    """
    import numpy as np

    from vtc_recipes.evaluation.bootstrap import wilson
    from vtc_recipes.evaluation.choices import mean_average_precision

    classes = sorted({option for record in records for option in record["options"]})
    place = {name: number for number, name in enumerate(classes)}
    answers = [place[record["options"][record["right"]]] for record in records]
    rng = np.random.default_rng(0)

    def matrix(draw: bool) -> Any:
        scores = np.zeros((len(records), len(classes)))
        for number, record in enumerate(records):
            count = len(record["options"])
            drawn = rng.dirichlet(np.ones(count)) if draw else record["scores"]
            if drawn is not None:
                scores[number, [place[name] for name in record["options"]]] = drawn
        return scores

    right = sum(
        record["scores"] is not None and int(np.argmax(record["scores"])) == record["right"]
        for record in records
    )
    mean, ends = mean_average_precision(matrix(draw=False), answers)
    draws = [mean_average_precision(matrix(draw=True), answers)[0] for _ in range(_DRAWS)]
    answered = [record for record in records if record["error"] is None]

    def mean_of(name: str) -> float:
        return float(sum(record[name] for record in answered) / max(1, len(answered)))

    return {
        "n": len(records),
        "errors": len(records) - len(answered),
        "accuracy": right / len(records),
        "accuracy_interval": wilson(right, len(records)),
        "accuracy_chance": sum(1 / len(r["options"]) for r in records) / len(records),
        "map": mean,
        "map_interval": ends,
        "map_chance": sum(draws) / len(draws),
        "classes": len({*answers}),
        "tokens": mean_of("tokens"),
        "keyframes": mean_of("keyframes"),
        "seconds": mean_of("seconds"),
    }


def _print(
    benchmark: str, count: str, distractors: str, results: Mapping[str, Any], out: Path
) -> None:
    print_line(f"{benchmark}, {results['n']} videos, {count} options, {distractors} distractors, %")
    for name, label in (("accuracy", "accuracy"), ("map", "mAP")):
        low, high = (100 * end for end in results[f"{name}_interval"])
        print_line(
            f"{label:<9}{100 * results[name]:>6.1f}  95 % {low:.1f}-{high:.1f}  "
            f"chance {100 * results[f'{name}_chance']:.1f}"
        )
    metric, value = _PAPER[benchmark]
    label = "mAP" if metric == "map" else metric
    print_line(f"the paper, whose options are not described: {label} {value} (Table 4)")
    print_line(
        f"mAP over {results['classes']} classes; {results['tokens']:.0f} tokens, "
        f"{results['keyframes']:.1f} keyframes and {results['seconds']:.2f} s per video"
    )
    if results["errors"]:
        print_line(f"{results['errors']} videos have no answer and count as wrong")
    print_line(f"results: {out / 'results.json'}, records.jsonl")
