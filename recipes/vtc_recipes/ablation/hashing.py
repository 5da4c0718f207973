"""Names derived from contents: equal values and equal files get equal names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

LENGTH = 12
"""Number of hexadecimal digits of a name."""


def digest(values: Any) -> str:
    """Return the name of plain JSON values; key order does not matter, and 1 equals 1.0.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2.0, "a": 1})
    True
    """
    text = json.dumps(_plain(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


@cache
def fingerprint(folder: Path) -> str:
    """Return the name of a folder: a hash of all files in it, their paths and contents."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                content.update(block)
        total.update(f"{file.relative_to(folder).as_posix()}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()[:LENGTH]


def _plain(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, float) and values.is_integer():
        return int(values)
    return values
