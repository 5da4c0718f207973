"""Read one entry of a cache, and check that it is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtc.cache.entry import FORMAT, Entry, Key
from vtc.cache.hashing import bytes_hash
from vtc.plugins.sections import load_json, parse

if TYPE_CHECKING:
    from torch import Tensor

DATA, ENTRY = "data.safetensors", "entry.json"
"""The files of an entry."""


class DamagedError(Exception):
    """An entry cannot be read."""


class OtherFormatError(DamagedError):
    """An entry was written by another version."""


def read_entry(folder: Path) -> Entry:
    """Return the description of an entry.

    Raises:
        DamagedError: It cannot be read.
    """
    path = folder / ENTRY
    try:
        values: Any = load_json(path)
        version = values.get("format") if isinstance(values, dict) else None
        if version is not None and version != FORMAT:
            raise OtherFormatError(f"format={version!r} instead of {FORMAT!r}")
        return parse(Entry, values, str(path))
    except ValueError as error:
        raise DamagedError(str(error)) from error


def read_tensors(folder: Path, content: str, key: Key) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of an entry, and what was lost while the video was read for it.

    Raises:
        DamagedError: The entry is not what was written, or describes something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    entry = read_entry(folder)
    if (entry.content, entry.key) != (content, key):
        raise DamagedError(f"{folder.name} describes something else")
    try:
        data = (folder / DATA).read_bytes()
    except OSError as error:
        raise DamagedError(str(error)) from error
    if len(data) != entry.bytes or bytes_hash(data) != entry.sha256:
        raise DamagedError(f"{folder.name}/{DATA} is not what was written")
    try:
        return load(data), tuple(entry.warnings)
    except SafetensorError as error:
        raise DamagedError(f"{folder.name}/{DATA}: {error}") from error
