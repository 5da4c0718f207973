"""Find the shipped YAML files by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vtc.plugins.discovery import suggestion

CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True)
class Shipped:
    """One shipped file.

    Attributes:
        name: The name that users type, without folder and suffix.
        kind: The folder: ``training``, ``ablation`` or ``accelerate``.
        summary: The first line of the file's comment.
        path: The path of the file.
    """

    name: str
    kind: str
    summary: str
    path: Path


def shipped(kind: str | None = None) -> list[Shipped]:
    """Return the shipped files of one kind, or all, sorted by kind and name."""
    return [file for file in _files() if kind in (None, file.kind)]


def find_config(name: str, kind: str) -> Path:
    """Return a shipped file by its name, or the file at a path.

    Raises:
        ValueError: There is neither a shipped file with this name nor a file at this path.
    """
    if os.sep not in name and "/" not in name:
        for file in shipped(kind):
            if name in (file.name, file.path.name):
                return file.path
    if os.path.isfile(name):
        return Path(name)
    names = [file.name for file in shipped(kind)]
    guess = suggestion(name, names)
    noun = "grid" if kind == "ablation" else "recipe"
    raise ValueError(f"unknown {noun} {name!r}; shipped: {', '.join(names)}.{guess}")


def _files() -> Iterator[Shipped]:
    for path in sorted(CONFIGS.rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        kind = path.relative_to(CONFIGS).parts[0]
        yield Shipped(path.stem, kind, first.removeprefix("#").strip(), path)
