"""Hashes of files, which a cache stores to avoid reading unchanged files again."""

from __future__ import annotations

import os
import time
from pathlib import Path

from vtc.cache.hashing import file_hash, text_hash
from vtc.cache.writing import CacheError, unfinished_folder
from vtc.plugins.sections import Section, read_json

_SETTLED_NS = 2 * 10**9
"""A file modified more recently may change again with the same modification time."""


class FileNote(Section):
    """The state and hash of a file, and the hash of the earlier content at its path."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    content: str
    earlier: str | None = None


def content_of(root: Path, path: Path) -> str:
    """Return the SHA-256 of a file; the file is read again only if it was changed.

    Args:
        root: The folder of the cache.

    Raises:
        OSError: It cannot be read.
    """
    path, note_file = path.absolute(), _note_file(root, path)
    state, old = os.stat(path), _read_note(note_file)
    fields = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "inode": state.st_ino}
    if old is not None and old.path == str(path):
        if fields == {name: getattr(old, name) for name in fields}:
            return old.content
    content = file_hash(path)
    if time.time_ns() - state.st_mtime_ns > _SETTLED_NS:
        earlier = old.content if old is not None and old.content != content else None
        note = FileNote(path=str(path), content=content, earlier=earlier, **fields)
        try:
            with unfinished_folder(root) as unfinished:
                (unfinished / "note.json").write_text(note.model_dump_json(), encoding="utf-8")
                note_file.parent.mkdir(exist_ok=True)
                (unfinished / "note.json").replace(note_file)
        except CacheError:  # the file is hashed again next time
            pass
    return content


def earlier_content(root: Path, path: Path) -> str | None:
    """Return the SHA-256 of the earlier content at a path; None if unknown."""
    note = _read_note(_note_file(root, path))
    return None if note is None else note.earlier


def forget_contents(root: Path) -> None:
    """Remove all stored hashes of a cache."""
    for note in (root / "files").glob("*.json"):
        note.unlink(missing_ok=True)


def _note_file(root: Path, path: Path) -> Path:
    return root / "files" / f"{text_hash(str(path.absolute()))[:32]}.json"


def _read_note(path: Path) -> FileNote | None:
    try:
        return read_json(path, FileNote)
    except ValueError:  # missing or damaged
        return None
