"""Names made of contents: equal values and equal files give equal names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

LENGTH = 12
"""Hexadecimal digits of a name."""


def digest(values: Any) -> str:
    """A name for plain JSON values; the order of keys, and 1 or 1.0, do not matter.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2.0, "a": 1})
    True
    """
    text = json.dumps(_plain(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


@cache
def fingerprint(folder: Path) -> str:
    """A name for a folder: for the names and contents of all files in it, however deep."""
    found = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                content.update(block)
        found.update(f"{file.relative_to(folder).as_posix()}\0{content.hexdigest()}\n".encode())
    return found.hexdigest()[:LENGTH]


def _plain(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, float) and values.is_integer():
        return int(values)
    return values
