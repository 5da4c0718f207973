"""The folder of a cache, which any number of processes share.

Each entry is a folder ``entries/CONTENT/KIND-KEY/``, where CONTENT and KEY are hashes. ``files/``
holds the hashes of files, ``cache.json`` the limit. An entry is written in ``unfinished/`` and
then renamed, so that a reader sees a whole entry or none. Only renaming and removing take the
lock, which the kernel releases when a process dies.
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
"""The maximum size of a cache in bytes, unless its ``cache.json`` sets another."""
_LOCK_SECONDS = 60.0


class Settings(Section):
    """The contents of ``cache.json``."""

    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True)
class Lookup:
    """Result of a cache lookup.

    Attributes:
        tensors: The tensors of the entry, on the CPU; None if there is no such entry.
        reason: Why there is no entry.
        is_damaged: Whether an entry was found but could not be read.
        warnings: Warnings from reading the video for the entry.
    """

    tensors: dict[str, Tensor] | None
    reason: str = ""
    is_damaged: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredEntry:
    """An entry on disk.

    Attributes:
        folder: The folder of the entry.
        entry: The description of the entry; None if it cannot be read.
        bytes: The size on disk.
        used: The time of the last read or write, in seconds since 1970.
    """

    folder: Path
    entry: Entry | None
    bytes: int
    used: float


def user_folder() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME/vtc``, else ``~/.cache/vtc``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "vtc"


@dataclass(frozen=True)
class CacheFolder:
    """A folder with entries, created when the first entry is written.

    Raises:
        ValueError: The path is not a folder.
    """

    path: Path

    def __post_init__(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"expected cache to be a folder, got the file {str(self.path)!r}")

    # --- entries

    def find(self, path: Path, kind: str, key: Key, sampling: Key, mapped: bool = False) -> Lookup:
        """Look up an entry; return its tensors, or the reason why there are none.

        A damaged entry is removed with a warning.

        Args:
            path: The video file.
            kind, key, sampling: See `Entry`.
            mapped: Map the data into memory, which is then read on demand. The data is checked
                only on the first lookup after its file was changed.

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
            except DamagedError:  # another process may have just replaced it
                tensors, warned = read_tensors(folder, content, key, hash_of)
        except DamagedError as error:
            if not folder.is_dir():
                return Lookup(None, "another process has removed them from the cache")
            self._remove(folder)
            reason = f"its entry in the cache was damaged and has been removed ({error})"
            warnings.warn(f"{path.name}: {reason}", RuntimeWarning, stacklevel=2)
            return Lookup(None, reason, is_damaged=True)
        try:
            os.utime(folder / ENTRY)  # the least recently used entries are removed first
        except OSError:  # a read-only cache
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
        """Write an entry, and remove the oldest entries beyond the limit; return its bytes.

        Args:
            path, kind, key, sampling: As for `find`.
            warned: Warnings from reading the video.

        Raises:
            CacheError: It cannot be written, or is larger than the limit of the cache.
            OSError: The video file cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.check_size(sum(tensor.nbytes for tensor in tensors.values()))
        with unfinished_folder(self.path) as unfinished:
            try:
                save_file(tensors, unfinished / DATA)
            except SafetensorError as error:  # raised if the disk is full
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
        """Make an entry from a folder that holds its data; see `store`.

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
        """Return all entries, the least recently used first."""
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
        return sorted(stored, key=lambda entry: entry.used)

    def clear(self) -> tuple[int, int]:
        """Remove all entries; return their number and their bytes.

        Raises:
            CacheError: The folder cannot be written.
        """
        entries = self.entries()
        if self.path.is_dir():
            with self._lock():
                for entry in entries:
                    self._remove(entry.folder)
                self._remove_abandoned()
            forget_contents(self.path)
        return len(entries), sum(entry.bytes for entry in entries)

    @property
    def limit(self) -> int:
        """The maximum size of the cache in bytes."""
        try:
            return read_json(self.path / "cache.json", Settings).limit
        except ValueError:  # none was set
            return DEFAULT_LIMIT

    def set_limit(self, limit: int) -> None:
        """Set the limit for all users of the cache, and remove the oldest entries beyond it.

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
        """Explain the miss: how the closest entry differs."""
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
        """Check that an entry fits the cache and the disk.

        Raises:
            CacheError: It is larger than the limit of the cache, or than the free disk space.
        """
        parents = self.path.absolute().parents
        place = next(folder for folder in (self.path, *parents) if folder.exists())
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
        """Remove the oldest entries until ``size`` more bytes fit; the caller holds the lock."""
        self._remove_abandoned()
        limit, entries = self.limit, self.entries()
        total = size + sum(entry.bytes for entry in entries)
        for entry in entries:
            if total <= limit:
                break
            self._remove(entry.folder)
            total -= entry.bytes

    def _remove(self, folder: Path) -> None:
        """Remove an entry atomically; a reader that has it open can finish."""
        target = self.path / "unfinished" / uuid.uuid4().hex
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            shutil.rmtree(target, ignore_errors=True)
        except OSError:  # another process was faster
            pass

    def _remove_abandoned(self) -> None:
        """Remove unfinished folders of dead processes, and folders without entries."""
        for folder in self._entries.glob("*"):
            try:
                folder.rmdir()
            except OSError:  # it has entries
                continue
        remove_abandoned(self.path)
