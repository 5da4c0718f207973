"""``vtc evaluate``: the paper's benchmarks on a user's own copy of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from vtc.cli import options
from vtc.cli.models import part_choice
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
    out: Annotated[Optional[Path], typer.Option(help="Write the records to this file.")] = None,  # noqa: UP045
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Score a selector on QVHighlights: Hit@1, 5, 10 and 30, each with its chance level.

    A hit is a frame of a clip with the highest mean saliency (peak). Also reported are hits of
    clips that an annotator rated "Very Good", and of any relevant clip.
    """
    from vtc.cli.show import progress_bars
    from vtc.wrapped.opening import pick_device
    from vtc_recipes.evaluation import qvhighlights as scoring

    queries = scoring.read_queries(annotations)[:limit]
    files = scoring.find_videos(queries, videos)
    spec = part_choice("dks", selector, selector_option).spec()
    ranker = scoring.Ranker(spec, encoder, pick_device(device))
    with progress_bars(quiet=as_json) as show:
        records = scoring.run(
            queries, files, ranker, lambda done, total: show("queries", done, total)
        )
    results = scoring.summarise(records)
    if out is not None:
        out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    if as_json:
        settings = {"task": "qvhighlights", "queries": len(records), "selector": ranker.spec}
        print(json.dumps({**settings, "results": results}, indent=2))
        return
    table = Table(title=f"{ranker.spec['name']}, {len(records)} queries, %")
    for column in ("hit", "k", "score", "95 %", "chance", "simulated"):
        table.add_column(column, justify="left" if column == "hit" else "right")
    for name, row in results.items():
        definition, k = name.split("@")
        low, high = row["interval"]
        scores = (row["hit"], row["chance"], row["simulated"])
        score, chance, simulated = (f"{100 * value:.1f}" for value in scores)
        table.add_row(definition, k, score, f"{100 * low:.1f}-{100 * high:.1f}", chance, simulated)
    Console(highlight=False).print(table)


app.command()(actions)
add_commands(app)
