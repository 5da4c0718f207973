"""The folder of a cache, which any number of processes share.

``entries/CONTENT/KIND-KEY/`` holds one entry each, CONTENT and KEY being hashes; ``files/`` the
hashes of files that were read before; ``cache.json`` the limit. An entry is written beside, in
``unfinished/``, and then renamed, so that a reader sees a whole entry or none. Only renaming and
removing take the lock. The kernel releases it when a process dies.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vtc.cache.contents import content_of, earlier_content, forget_contents
from vtc.cache.entry import FORMAT, Entry, Key, differences, entry_name
from vtc.cache.hashing import file_hash
from vtc.cache.reading import DATA, ENTRY, DamagedError, OtherFormatError, read_entry, read_tensors
from vtc.cache.sizes import size_text
from vtc.cache.writing import CacheError, flush, remove_abandoned, unfinished_folder, writes_to
from vtc.plugins.sections import Section, read_json

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_LIMIT = 20 * 10**9
"""Bytes that a cache holds at most, unless its ``cache.json`` says otherwise."""
_LOCK_SECONDS = 60.0


class Settings(Section):
    """``cache.json``."""

    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True)
class Lookup:
    """What a cache says when it is asked for an entry.

    Attributes:
        tensors: The tensors of the entry, on the CPU; None where there is no such entry.
        reason: Why there is none.
        is_damaged: Whether there was one that could not be read.
        warnings: What was lost while the video was read for the entry.
    """

    tensors: dict[str, Tensor] | None
    reason: str = ""
    is_damaged: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredEntry:
    """An entry on disk.

    Attributes:
        folder: Its folder.
        entry: Its description; None where it cannot be read.
        bytes: What it takes on disk.
        used: When it was last read or written, in seconds since 1970.
    """

    folder: Path
    entry: Entry | None
    bytes: int
    used: float


def user_folder() -> Path:
    """Return the user's own cache folder: ``$XDG_CACHE_HOME/vtc``, else ``~/.cache/vtc``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "vtc"


@dataclass(frozen=True)
class CacheFolder:
    """A folder with entries; it is made when the first entry is written.

    Raises:
        ValueError: There is something else than a folder at the path.
    """

    path: Path

    def __post_init__(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"expected cache to be a folder, got the file {str(self.path)!r}")

    # --- entries

    def find(self, path: Path, kind: str, key: Key, sampling: Key, mapped: bool = False) -> Lookup:
        """Return the tensors of an entry, or why there are none.

        An entry that is damaged is removed with a warning.

        Args:
            path: The video file.
            kind, key, sampling: As `Entry` has them.
            mapped: Map the data into memory, which takes none until it is read. It is checked when
                it is found for the first time after the file was changed, not each time.

        Raises:
            OSError: The video file cannot be read.
        """
        content = content_of(self.path, path)
        folder = self._entries / content[:32] / entry_name(kind, key)
        if not folder.is_dir():
            return Lookup(None, self._why_not(path, content, kind, key, sampling))
        try:
            hash_of = partial(content_of, self.path) if mapped else None
            try:
                tensors, warned = read_tensors(folder, content, key, hash_of)
            except DamagedError:  # or another process has just replaced it
                tensors, warned = read_tensors(folder, content, key, hash_of)
        except DamagedError as error:
            if not folder.is_dir():
                return Lookup(None, "another process has removed them from the cache")
            self._remove(folder)
            reason = f"its entry in the cache was damaged and thrown away ({error})"
            warnings.warn(f"{path.name}: {reason}", RuntimeWarning, stacklevel=2)
            return Lookup(None, reason, is_damaged=True)
        try:
            os.utime(folder / ENTRY)  # the oldest entries go first
        except OSError:  # a cache that others may only read
            pass
        return Lookup(tensors, warnings=warned)

    def store(
        self,
        tensors: dict[str, Tensor],
        *,
        path: Path,
        kind: str,
        key: Key,
        sampling: Key,
        warned: Sequence[str] = (),
    ) -> int:
        """Write an entry, and remove the oldest ones beyond the limit; return its bytes.

        Args:
            path, kind, key, sampling: As `find` takes them.
            warned: What was lost while the video was read.

        Raises:
            CacheError: It cannot be written, or is larger than the whole cache may be.
            OSError: The video file cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.check_size(sum(tensor.nbytes for tensor in tensors.values()))
        with unfinished_folder(self.path) as unfinished:
            try:
                save_file(tensors, unfinished / DATA)
            except SafetensorError as error:  # what it raises where the disk is full
                raise OSError(str(error)) from error
            return self.finish(
                unfinished, path=path, kind=kind, key=key, sampling=sampling, warned=warned
            )

    def finish(
        self,
        unfinished: Path,
        *,
        path: Path,
        kind: str,
        key: Key,
        sampling: Key,
        warned: Sequence[str] = (),
    ) -> int:
        """Make an entry of a folder that holds its data, as `store` does.

        Args:
            unfinished: A folder inside the cache, see `vtc.cache.writing`.
        """
        content = content_of(self.path, path)
        with writes_to(self.path):
            size = (unfinished / DATA).stat().st_size
            entry = Entry(
                format=FORMAT,
                kind=kind,
                video=path.name,
                content=content,
                key=key,
                sampling=sampling,
                warnings=list(warned),
                bytes=size,
                sha256=file_hash(unfinished / DATA),
                created=time.time(),
            )
            (unfinished / ENTRY).write_text(entry.model_dump_json(indent=1), encoding="utf-8")
            for name in (DATA, ENTRY):
                flush(unfinished / name)
            with self._lock():
                self._make_room(size)
                target = self._entries / content[:32] / entry_name(kind, key)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():  # another process may have been faster
                    unfinished.rename(target)
        return size

    def entries(self) -> list[StoredEntry]:
        """Return all entries, the one that was used last at the end."""
        stored = []
        for folder in self._entries.glob("*/*-*"):
            try:
                used = max(file.stat().st_mtime for file in (folder, *folder.glob(ENTRY)))
                size = sum(file.stat().st_size for file in folder.iterdir())
            except FileNotFoundError:  # another process has just removed it
                continue
            try:
                entry = read_entry(folder)
            except DamagedError:
                entry = None
            stored.append(StoredEntry(folder, entry, size, used))
        return sorted(stored, key=lambda one: one.used)

    def clear(self) -> tuple[int, int]:
        """Remove all entries; return how many there were, and their bytes.

        Raises:
            CacheError: The folder cannot be written.
        """
        entries = self.entries()
        if self.path.is_dir():
            with self._lock():
                for one in entries:
                    self._remove(one.folder)
                self._remove_abandoned()
            forget_contents(self.path)
        return len(entries), sum(one.bytes for one in entries)

    @property
    def limit(self) -> int:
        """Bytes that the cache holds at most."""
        try:
            return read_json(self.path / "cache.json", Settings).limit
        except ValueError:  # none was set
            return DEFAULT_LIMIT

    def set_limit(self, limit: int) -> None:
        """Set the limit for all who use the cache, and remove the oldest entries beyond it.

        Raises:
            CacheError: The folder cannot be written.
        """
        with unfinished_folder(self.path) as unfinished:
            new = unfinished / "cache.json"
            new.write_text(Settings(limit=limit).model_dump_json(), encoding="utf-8")
            with self._lock():
                new.replace(self.path / "cache.json")
                self._make_room(0)

    # --- inside

    @property
    def _entries(self) -> Path:
        return self.path / "entries"

    def _why_not(self, path: Path, content: str, kind: str, key: Key, sampling: Key) -> str:
        """Return in what the most similar entry differs."""
        others: list[list[str]] = []
        for folder in (self._entries / content[:32]).glob(f"{kind.replace(' ', '-')}-*"):
            try:
                entry = read_entry(folder)
            except OtherFormatError as error:
                others.append([str(error)])
            except DamagedError:
                continue
            else:
                others.append(differences(entry, key, sampling))
        if others:
            nearest = min(others, key=len)
            return f"the cache has them for {', '.join(nearest)}"
        earlier = earlier_content(self.path, path)
        if earlier and (self._entries / earlier[:32]).is_dir():
            return "the file was changed since it was cached"
        return "they were not in the cache"

    def check_size(self, size: int) -> None:
        """Refuse an entry that the cache or the disk has no room for.

        Raises:
            CacheError: It is larger than the whole cache may be, or than what is free on the disk.
        """
        place = next(each for each in (self.path, *self.path.absolute().parents) if each.exists())
        if size > (free := shutil.disk_usage(place).free) > 0:
            raise CacheError(
                f"{size_text(size)} do not fit on the disk of the cache {str(self.path)!r}, "
                f"which has {size_text(free)} left"
            )
        if size > (limit := self.limit):
            raise CacheError(
                f"{size_text(size)} are more than the cache {str(self.path)!r} may hold "
                f"({size_text(limit)}); set its limit with vtc cache --limit"
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        import filelock

        lock = filelock.FileLock(self.path / "lock", timeout=_LOCK_SECONDS)
        try:
            with lock:
                yield
        except filelock.Timeout as error:
            raise CacheError(
                f"cannot write to the cache {str(self.path)!r}: another process has held its lock "
                f"for {_LOCK_SECONDS:.0f} s"
            ) from error

    def _make_room(self, size: int) -> None:
        """Remove the oldest entries until ``size`` more bytes fit; the lock is held."""
        self._remove_abandoned()
        limit, entries = self.limit, self.entries()
        total = size + sum(one.bytes for one in entries)
        for one in entries:
            if total <= limit:
                break
            self._remove(one.folder)
            total -= one.bytes

    def _remove(self, folder: Path) -> None:
        """Remove an entry at once for all others; one that is being read stays readable."""
        target = self.path / "unfinished" / uuid.uuid4().hex
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            shutil.rmtree(target, ignore_errors=True)
        except OSError:  # another process was faster
            pass

    def _remove_abandoned(self) -> None:
        """Remove what writers that died have left, and folders without entries."""
        for folder in self._entries.glob("*"):
            try:
                folder.rmdir()
            except OSError:  # it has entries
                continue
        remove_abandoned(self.path)
