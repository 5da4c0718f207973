"""``vtc evaluate``: the paper's benchmarks on a user's own copy of the data."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from vtc.cli import options
from vtc.cli.models import part_choice
from vtc.cli.output import print_json, print_line
from vtc_recipes.evaluation.actions_cli import actions
from vtc_recipes.evaluation.harness.cli import add_commands
from vtc_recipes.evaluation.videoniah import cli as videoniah

app = typer.Typer(
    help="Run the paper's benchmarks on your own copy of their data.", no_args_is_help=True
)
app.add_typer(videoniah.app, name="videoniah")


@app.command()
def qvhighlights(
    annotations: Annotated[Path, typer.Option(help="The annotations (JSON lines).")],
    videos: Annotated[Path, typer.Option(help="Folder with the videos, VID.mp4.")],
    encoder: Annotated[
        str, typer.Option(help="Frame encoder, unless the selector names its own.")
    ] = "open_clip:ViT-B-32/openai",
    selector: options.Selector = None,
    selector_option: options.SelectorOption = [],  # noqa: B006 - typer copies it
    limit: Annotated[
        options.Count, typer.Option(min=1, help="Score only the first queries.")
    ] = None,
    only_present: Annotated[
        bool, typer.Option("--only-present", help="Skip queries whose video is missing.")
    ] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for the results; the same command resumes a run in it."),
    ] = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Score a selector on QVHighlights: Hit@1, 5, 10 and 30, each with its chance level.

    A hit is a frame of a clip with the highest mean saliency (peak). Also reported are hits of
    clips that an annotator rated "Very Good", and of any relevant clip.
    """
    from vtc.cli.show import progress_bars
    from vtc.encoders.device import pick_device
    from vtc_recipes.evaluation import qvhighlights as scoring
    from vtc_recipes.evaluation.resuming import (
        claim_settings,
        lock_folder,
        model_files,
        resumable,
        write_json,
    )

    queries = scoring.read_queries(annotations)[:limit]
    files = scoring.find_videos(queries, videos, only_present=only_present)
    missing = sum(query.video not in files for query in queries)
    queries = [query for query in queries if query.video in files]
    spec = part_choice("dks", selector, selector_option).spec()
    ranker = scoring.Ranker(spec, encoder, pick_device(device))
    settings = {
        "task": "qvhighlights",
        "selector": {**ranker.spec, "keyframes": list(scoring.RANKS)},
        "encoder": ranker.encoder.name if ranker.uses_embeddings else None,
    }
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(resumable(out))
            stack.enter_context(lock_folder(out))
            claim_settings(out, {**settings, "encoder_files": model_files(encoder)})
        with progress_bars(quiet=as_json) as show:
            records, errors = scoring.run(
                queries,
                files,
                ranker,
                lambda done, total: show("queries", done, total),
                None if out is None else out / "records.jsonl",
            )
        if not records:
            raise ValueError(f"no video can be read; the first: {errors[0]}")
        results = scoring.summarise(records)
        counts = {"queries": len(records), "queries_without_video": missing, "errors": errors}
        whole = {**settings, **counts, "results": results}
        if out is not None:
            write_json(out / "results.json", whole)
    if as_json:
        print_json(whole)
    else:
        _print_hits(f"{ranker.spec['name']}, {len(records)} queries, %", results)
        if missing:
            print_line(f"{missing} queries without a video were skipped")
        if out is not None:
            print_line(f"results: {out / 'results.json'}, records.jsonl")
    if errors:
        for line in errors:
            typer.echo(f"not scored: {line}", err=True)
        raise typer.Exit(1)


def _print_hits(title: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(title=title)
    for column in ("hit", "k", "keyframes", "score", "95 %", "chance", "simulated"):
        table.add_column(column, justify="left" if column == "hit" else "right")
    for name, row in results.items():
        definition, k = name.split("@")
        low, high = row["interval"]
        scores = (row["hit"], row["chance"], row["simulated"])
        score, chance, simulated = (f"{100 * value:.1f}" for value in scores)
        interval = f"{100 * low:.1f}-{100 * high:.1f}"
        count = f"{row['keyframes']:.1f}"
        table.add_row(definition, k, count, score, interval, chance, simulated)
    Console(highlight=False).print(table)


app.command()(actions)
add_commands(app)
