"""The commands ``vtc train`` and ``vtc recipes``; torch is imported only inside them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich import box
from rich.table import Table

from vtc.cli.output import print_json, print_line, terminal
from vtc_recipes.shipped import find_config, shipped

if TYPE_CHECKING:
    from vtc_recipes.training.checking import DataReport
    from vtc_recipes.training.estimate import PartSize


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045 - older typer cannot evaluate X | None
        typer.Argument(help="Override values: optimisation.steps=10 data.sources.0.path=a.json"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the data; show the trained parts and their memory."),
    ] = False,
    check_data: Annotated[
        bool, typer.Option("--check-data", help="Only check the data; exit with 1 on errors.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the last checkpoint.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a wrapped model with a recipe: its merger, its connector, or all of it."""
    from vtc_recipes.reading import load_yaml
    from vtc_recipes.training.config import apply_settings

    path = find_config(recipe, "training")
    values = apply_settings(load_yaml(path), settings or ())
    run = _train_stages if "stages" in values else _train_wrapped
    label = f"{path} with {' '.join(settings)}" if settings else str(path)
    if check_data:
        _check_data(values, label, as_json)
        return
    run(values, label, dry_run=dry_run, resume=resume, as_json=as_json)


def _check_data(values: dict[str, Any], label: str, as_json: bool) -> None:
    from vtc_recipes.training.checking import check_data
    from vtc_recipes.training.config import parse_recipe

    if "stages" in values:
        raise ValueError(f"{label} generates its own data; there is nothing to check")
    data = check_data(parse_recipe(values, label))
    if as_json:
        print_json(asdict(data))
    else:
        _print_data(data)
    if data.errors:
        raise typer.Exit(1)


def _train_wrapped(
    values: dict[str, Any], label: str, *, dry_run: bool, resume: bool, as_json: bool
) -> None:
    from vtc_recipes.training.config import parse_recipe

    recipe = parse_recipe(values, label)
    if dry_run:
        from vtc_recipes.training.checking import check_data
        from vtc_recipes.training.components import set_training
        from vtc_recipes.training.estimate import estimate
        from vtc_recipes.training.models import open_model

        model, processor = open_model(recipe, meta=True)
        data = check_data(recipe, model, processor)
        sizes = estimate(set_training(model, recipe.train), recipe)
        total = sum(size.bytes for size in sizes)
        note = "in total; ZeRO-3 and FSDP2 divide it by the number of processes."
        _print_sizes(sizes, total, note, as_json, {"data": asdict(data)})
        if not as_json:
            _print_data(data)
        return
    from vtc_recipes.training.run import train as run

    folder = run(recipe, resume=resume)
    hint = f"open it with vtc.from_pretrained, or vtc ask --model {folder}"
    _print_folder(folder, hint, as_json)


def _train_stages(
    values: dict[str, Any], label: str, *, dry_run: bool, resume: bool, as_json: bool
) -> None:
    from vtc_recipes.tiny.reading import parse_tiny

    recipe = parse_tiny(values, label)
    if dry_run:
        from vtc_recipes.tiny.sizes import stage_sizes

        sizes = stage_sizes(recipe)
        total = max(size.bytes for size in sizes)
        _print_sizes(sizes, total, "in the largest stage.", as_json)
        for stage in recipe.stages if not as_json else ():
            gates = ", ".join(f"{name} >= {least:g}" for name, least in stage.gates.items())
            print(f"{stage.name}: {stage.steps} steps of {stage.batch}, gates: {gates or 'none'}")
        return
    from vtc_recipes.tiny.stages import train as run

    folder = run(recipe, resume=resume)
    option = "encoder" if folder.name == "dual_encoder" else "model"
    _print_folder(folder, f"use it with vtc ask --{option}", as_json)


def _print_folder(folder: Path, hint: str, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder)})
    else:
        print_line(f"saved in {folder}; {hint}")


def recipes(
    paths: Annotated[bool, typer.Option("--paths", help="Print the paths of the files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the shipped recipes, ablation grids and settings for accelerate."""
    files = shipped()
    if as_json:
        print_json([{**asdict(file), "path": str(file.path)} for file in files])
        return
    if paths:
        for file in files:
            print_line(f"{file.kind:<12}{file.path}")  # never wrapped
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in ("kind", "name", "description"):
        table.add_column(title, overflow="fold")
    for file in files:
        table.add_row(file.kind, file.name, file.summary)
    terminal().print(table)


def _print_data(data: DataReport) -> None:
    print(f"{data.samples} samples, {data.steps} steps in one process")
    for name, count in data.by_source.items() if len(data.by_source) > 1 else ():
        print_line(f"{name}: {count} samples")
    if data.most_tokens:
        print(
            f"{data.tokens:.0f} tokens per sample, at most {data.most_tokens}, in {data.opened} "
            "opened samples"
        )
    for line in data.warnings:
        print_line(f"warning: {line}")
    for line in data.errors:
        print_line(f"error: {line}")


def _print_sizes(
    sizes: list[PartSize], total: int, note: str, as_json: bool, more: dict[str, Any] | None = None
) -> None:
    if as_json:
        values = {"parts": [asdict(size) for size in sizes], "bytes": total, **(more or {})}
        print_json(values)
        return
    titles = ("parameters", "trainable", "weights", "gradients", "optimiser")
    print(f"{'part':<15}{'trains':<7}{'rate':>7}" + "".join(f"{title:>12}" for title in titles))
    for size in sizes:
        rate = "" if size.learning_rate is None else f"{size.learning_rate:g}"
        counts = (_count(number) for number in (size.parameters, size.trainable))
        memory = (_size(number) for number in (size.weights, size.gradients, size.optimiser))
        columns = "".join(f"{column:>12}" for column in (*counts, *memory))
        print(f"{size.part:<15}{size.how:<7}{rate:>7}{columns}")
    print(f"{_size(total)} {note} Activations are extra.")


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e4 else str(number)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"
