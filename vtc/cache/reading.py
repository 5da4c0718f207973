"""Read one entry of a cache, and check that it is undamaged."""

from __future__ import annotations

from collections.abc import Callable
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


def read_tensors(
    folder: Path, content: str, key: Key, hash_of: Callable[[Path], str] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of an entry, and the warnings from reading the video for it.

    Args:
        content, key: The values that the entry must have.
        hash_of: If given, the data is mapped into memory, and this function returns the SHA-256
            of the file.

    Raises:
        DamagedError: The entry is damaged, or has another content or key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    entry = read_entry(folder)
    if (entry.content, entry.key) != (content, key):
        raise DamagedError(f"{folder.name} has another content or key")
    path = folder / DATA
    try:
        data = path.read_bytes() if hash_of is None else b""
        size = path.stat().st_size
        if size != entry.bytes or (hash_of(path) if hash_of else bytes_hash(data)) != entry.sha256:
            raise DamagedError(f"{folder.name}/{DATA} was changed after it was written")
        tensors = load_file(path) if hash_of else load(data)
        return tensors, tuple(entry.warnings)
    except OSError as error:
        raise DamagedError(str(error)) from error
    except SafetensorError as error:
        raise DamagedError(f"{folder.name}/{DATA}: {error}") from error
