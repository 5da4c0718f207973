"""``vtc parts``: list the installed selectors, mergers and adapters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from enum import Enum
from itertools import groupby
from typing import Annotated, Optional

import typer
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vtc.cli.output import print_json, terminal
from vtc.interfaces.costs import Sizes
from vtc.plugins.registry import PartInfo
from vtc.plugins.registry import parts as list_parts


class Kind(str, Enum):
    """The kinds of parts, and skipped plug-ins."""

    selector = "selector"
    merger = "merger"
    budget = "budget"
    adapter = "adapter"
    plugin = "plug-in"


def parts(
    kind: Annotated[
        Optional[Kind],  # noqa: UP045 - typer evaluates it, and old ones cannot read X | None
        typer.Argument(help="List only this kind; plug-in lists the skipped plug-ins."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    as_markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print tables of selectors and mergers with their costs."),
    ] = False,
    at: Annotated[
        str, typer.Option(help="Sizes for the costs of --markdown, such as M=196,n=32.")
    ] = "",
) -> None:
    """List selectors, mergers, budgets and adapters, their options, and their plug-ins."""
    if as_markdown:
        _check_markdown(kind, as_json)
    elif at:
        raise ValueError(f"--at {at} needs --markdown, which prints costs")
    infos = _listed(kind)
    if as_json:
        print_json([asdict(part) for part in infos])
        return
    if as_markdown:
        from vtc.cli.methods import tables

        print(tables(infos, _sizes(at)))
        return
    console = terminal()
    usable = [part for part in infos if part.error is None]
    broken = [part for part in infos if part.error is not None]
    if usable:
        console.print(_table(usable))
        console.print(_origins(usable))
    if broken:
        _print_broken(console, broken)
    if not infos:
        console.print(f"nothing to list{f' of the kind {kind.value}' if kind else ''}")
    if kind is Kind.plugin and any(p.error for p in _listed(None) if p.kind != kind.value):
        console.print("Some parts of other plug-ins are broken too: see 'vtc parts'.")


def _listed(kind: Kind | None) -> list[PartInfo]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the list itself shows the broken plug-ins
        return list_parts(kind.value if kind else None)


def _check_markdown(kind: Kind | None, as_json: bool) -> None:
    if as_json:
        raise ValueError("expected --json or --markdown, got both")
    if kind not in (None, Kind.selector, Kind.merger):
        raise ValueError(f"--markdown lists selectors and mergers, got {kind.value}")


def _sizes(text: str) -> Sizes:
    """Parse the sizes of ``--at``, such as ``M=196,n=32``."""
    meanings = {size.name: size.metadata["meaning"] for size in fields(Sizes)}
    sizes = {}
    for word in text.split(",") if text else []:
        name, _, value = word.partition("=")
        if name.strip() not in meanings:
            names = ", ".join(f"{name} ({meaning})" for name, meaning in meanings.items())
            raise ValueError(f"--at {text}: expected one of {names}, got {name.strip()!r}")
        try:
            sizes[name.strip()] = float(value)
        except ValueError as error:
            raise ValueError(f"--at {text}: expected NAME=NUMBER, got {word!r}") from error
    return Sizes(**sizes)


def _table(infos: Sequence[PartInfo]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("name", no_wrap=True, style="cyan")
    table.add_column("summary, options and defaults", ratio=1, overflow="fold")
    table.add_column("plug-in", overflow="fold")
    for index, part in enumerate(infos):
        last = index + 1 == len(infos) or infos[index + 1].kind != part.kind
        cells = (Text(part.kind), Text(part.name), _description(part), Text(part.plugin))
        table.add_row(*cells, end_section=last)
    return table


def _description(part: PartInfo) -> Text:
    text = Text(part.summary)
    for name, default in part.options.items():
        text.append(f"\n  {name}={default!r}", style="green")
    return text


def _origins(infos: Sequence[PartInfo]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in ("plug-in", "distribution", "version"):
        table.add_column(title, overflow="fold")
    for origin in sorted({(part.plugin, part.distribution, part.version) for part in infos}):
        table.add_row(*map(Text, origin))
    return table


def _print_broken(console: Console, broken: Sequence[PartInfo]) -> None:
    console.print(Text("Broken", style="bold red"))
    # A name that several plug-ins register is listed once per plug-in, with the same error.
    for (kind, name, error), claims in groupby(broken, lambda p: (p.kind, p.name, p.error)):
        origins = [f"({part.plugin}, {part.distribution} {part.version})" for part in claims]
        console.print(
            Text(kind), Text(name, style="cyan"), *(Text(origin, style="dim") for origin in origins)
        )
        console.print(Padding(Text(error or ""), (0, 0, 0, 2), expand=False))
