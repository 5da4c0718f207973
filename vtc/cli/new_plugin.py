"""``vtc new-plugin``: write the files of a new plug-in."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from vtc.cli import options
from vtc.cli.output import print_json, print_line
from vtc.plugins.scaffold import write_skeleton


def new_plugin(
    name: Annotated[str, typer.Argument(help="The distribution's name, such as acme-selectors.")],
    folder: Annotated[Path, typer.Option(help="The folder to create it in.")] = Path("."),
    as_json: options.AsJson = False,
) -> None:
    """Create a plug-in with a selector, a merger and tests that pass."""
    target = write_skeleton(name, folder)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    if as_json:
        print_json({"folder": str(target), "files": [str(file) for file in files]})
        return
    for file in files:
        print_line(f"wrote {file}")
    print(
        f"\nNext:\n  cd {shlex.quote(str(target))}\n"
        "  pip install -e '.[test]'\n  pytest\n  vtc parts"
    )
