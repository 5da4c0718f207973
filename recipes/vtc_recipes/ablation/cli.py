"""The commands ``vtc ablate`` and ``vtc report``; torch is imported only inside them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich import box
from rich.table import Table

from vtc.cli import options
from vtc.cli.output import print_json, print_line, printable, terminal
from vtc_recipes.shipped import find_config

if TYPE_CHECKING:
    from vtc_recipes.ablation.grid import Grid

Folder = Optional[Path]  # noqa: UP007, UP045 - older typer cannot evaluate X | None


def ablate(
    grid: Annotated[str, typer.Argument(help="A shipped grid's name, or a YAML file.")],
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Override values: base.model=FOLDER base.task.examples=20"),
    ] = None,
    out: Annotated[
        Folder, typer.Option(help="Folder for the results. (default: runs/GRID)")
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="Share the work with other workers; write no report.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and the remaining work.")
    ] = False,
    ray: options.Ray = None,
    ray_cpus: options.RayCpus = 1.0,
    ray_gpus: options.RayGpus = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Ask all configurations of a grid the same questions, and report the results.

    Several of these commands can share a folder; each can be killed and restarted.
    """
    import transformers

    from vtc.cli.show import progress_bars
    from vtc.encoders.device import pick_device
    from vtc_recipes.ablation.grid import parse_grid
    from vtc_recipes.ablation.plan import jobs_of, prepare
    from vtc_recipes.ablation.work import work
    from vtc_recipes.reading import apply_overrides, load_yaml

    path = find_config(grid, "ablation")
    values = apply_overrides(load_yaml(path), settings or ())
    grid_ = parse_grid(values, path.stem)
    runs = out or Path("runs") / path.stem
    if dry_run:
        _print_plan(grid_, runs, as_json)
        return
    prepare(grid_, runs)
    transformers.utils.logging.disable_progress_bar()
    with _exit_on_sigterm(), progress_bars(quiet=as_json, window=3600.0) as show:
        progress = partial(show, "cells and trainings")
        if ray is not None:
            from vtc.batch.cluster import Resources
            from vtc_recipes.ablation.cluster import work_on_cluster

            resources = Resources(ray_cpus, ray_gpus)
            work_on_cluster(grid_, values, runs, device, ray, resources, progress)
        else:
            work(
                jobs_of(grid_, runs, pick_device(device), show),
                runs / "locks",
                runs / "working",
                progress,
                lambda text: print(printable(text), file=sys.stderr, flush=True),
            )
    if worker:
        if as_json:
            print_json({"folder": str(runs)})
        else:
            print_line(f"all jobs in {runs} are done")
        return
    report(runs, None, as_json=as_json)


def report(
    runs: Annotated[Path, typer.Argument(help="The folder that vtc ablate wrote to.")],
    out: Annotated[
        Folder, typer.Option(help="Folder for the report. (default: RUNS/report)")
    ] = None,
    against: Annotated[
        int, typer.Option(help="Row to compare the others with, counted from 1.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Write the results of a grid as tables (Markdown, CSV) and plots."""
    from vtc_recipes.ablation.report import write_report

    written = write_report(runs, out or runs / "report", against)
    if as_json:
        print_json(written.to_dict())
        return
    print(written.table)
    print_line(f"report: {written.file}")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit on SIGTERM as on Ctrl-C, so that this process does not count as one that died."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_plan(grid: Grid, runs: Path, as_json: bool) -> None:
    from vtc_recipes.ablation.plan import estimate, missing_data

    cost = estimate(grid, runs)
    rows: list[dict[str, Any]] = [
        {
            "cell": cell.id,
            "configuration": row.label,
            "seed": cell.setting.seed,
            "training": cell.training.id if cell.training else None,
            "done": (runs / "cells" / cell.id).is_dir(),
        }
        for row in grid.rows
        for cell in row.cells
    ]
    if as_json:
        print_json({"folder": str(runs), "cells": rows, "cost": asdict(cost)})
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in ("cell", "configuration", "seed", "training", "done"):
        table.add_column(title, overflow="fold")
    for entry in rows:
        done = "yes" if entry["done"] else ""
        training = entry["training"] or ""
        table.add_row(entry["cell"], entry["configuration"], str(entry["seed"]), training, done)
    console = terminal()
    console.print(table)
    console.print(
        f"{cost.cells_done} of {cost.cells} cells and {cost.trainings_done} of {cost.trainings} "
        f"trainings are done in {runs}.\nRemaining: {cost.questions} questions about "
        f"{cost.frames} frames, {_minutes(cost.seconds)}"
        + (f"; trainings {_minutes(cost.training_seconds)}." if cost.trainings else "."),
        markup=False,
    )
    for line in missing_data(grid, runs):
        console.print(f"missing: {line}", markup=False)


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "for an unknown time until one is done"
    return f"about {seconds / 60:.1f} minutes of one worker"
