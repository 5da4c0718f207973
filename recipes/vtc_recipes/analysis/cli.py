"""``vtc analyse``: what a model does with videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, print_line

app = typer.Typer(help="Analyse what a model does with videos.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group while it has a single command."""


@app.command()
def redundancy(
    videos: Annotated[
        Path,
        typer.Option(
            metavar="ROWS",
            help='One JSON object a line: {"id": ..., "video": ..., "question": ...}.',
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; a run in it is resumed.")],
    model: options.Model = options.DEFAULT_MODEL,
    video_root: Annotated[
        Path, typer.Option(help="The folder that the names of videos are relative to.")
    ] = Path("."),
    frames: Annotated[int, typer.Option(min=2, help="Frames of a video, spread evenly.")] = 128,
    keyframes: Annotated[
        int, typer.Option(min=1, help="Frames with the most attention that count as keyframes.")
    ] = 32,
    layers: Annotated[
        str, typer.Option(help="Layers of the language model, from 0: all, or 0,7,14.")
    ] = "all",
    limit: Annotated[
        options.Count, typer.Option(min=1, help="Measure the first rows only.")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure how redundant frames and patches are to a stock model (Figures 3 and 4 of ViLAMP).

    Every frame keeps all its tokens. Attention is that of the question's tokens, averaged over
    them, all heads and the layers; no matrix of all tokens by all tokens is kept.
    """
    from vtc.batch.rows import read_rows
    from vtc.cli.show import progress_bars
    from vtc_recipes.evaluation.resuming import (
        claim_settings,
        lock_folder,
        model_files,
        read_lines,
        resumable,
    )

    rows = read_rows(videos)[:limit]
    numbers = None if layers == "all" else _numbers(layers)
    if keyframes >= frames:
        raise ValueError(f"expected --keyframes below --frames, got {keyframes} of {frames}")
    settings = {
        "model": model,
        "files": model_files(model),
        "frames": frames,
        "keyframes": keyframes,
        "layers": numbers,
        "dtype": dtype,
    }
    wrapped = ModelOptions(
        model=model,
        selector="uniform",
        merger="drop",
        keyframes=frames,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    with resumable(out), lock_folder(out):
        claim_settings(out, settings)
        from vtc_recipes.analysis import redundancy as analysis
        from vtc_recipes.analysis.attention import check_family

        opened, processor = wrapped.open(quiet=as_json)
        check_family(opened)
        with progress_bars(quiet=as_json, window=3600.0) as show:
            lost = analysis.measure(
                opened,
                processor,
                rows,
                video_root,
                out,
                settings,
                lambda done, total: show("questions", done, total),
            )
        if read_lines(out / analysis.RECORDS):
            summary, files = analysis.write_results(out, settings, [row.id for row in rows])
            if as_json:
                print_json({"settings": settings, **summary, "plots": files, "errors": lost})
            else:
                for line in (*analysis.lines_of(summary), analysis.PAPER):
                    print_line(line)
                plots = ", ".join(files) or "no plots: pip install 'video-token-compression[plots]'"
                print_line(f"results: {out / 'redundancy.json'}; {plots}")
    if lost:
        for line in lost:
            typer.echo(f"not measured: {line}", err=True)
        raise typer.Exit(1)


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"expected --layers to be all or numbers such as 0,7,14, got {text!r}")
    return [int(word) for word in words]
