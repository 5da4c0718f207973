"""Write files of a cache in a temporary folder, so that no reader sees a partial file."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Cache of vtc; see https://bford.info/cachedir/\n"


_LOCK_SUFFIX = ".lock"
_ABANDONED_SECONDS = 24 * 3600.0
"""The age of folders without a lock that are removed."""


class CacheError(OSError):
    """A cache cannot be written; the message gives the reason."""


@contextmanager
def writes_to(root: Path) -> Iterator[None]:
    """Convert an OSError in the ``with`` block to a `CacheError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(f"cannot write to the cache {str(root)!r}: {error}") from error


class UnfinishedFolder:
    """A temporary folder in a cache for files that are being written.

    This process locks a file next to it; the kernel releases the lock when the process dies.

    Attributes:
        path: The folder.

    Raises:
        CacheError: It cannot be made.
    """

    def __init__(self, root: Path) -> None:
        import filelock

        self.path = root / "unfinished" / uuid.uuid4().hex
        self._lock = filelock.FileLock(_lock_file(self.path))
        with writes_to(root):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()  # before the folder is there, so that no other process removes it
            try:
                self.path.mkdir()
                tag = root / "CACHEDIR.TAG"
                if not tag.exists():
                    tag.write_text(_TAG, encoding="utf-8")
            except OSError:
                self.remove()
                raise

    def remove(self) -> None:
        """Remove the folder with what is left in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            _lock_file(self.path).unlink()
        self._lock.release()


@contextmanager
def unfinished_folder(root: Path) -> Iterator[Path]:
    """Make a temporary folder for files that are being written; remove it at the end.

    Raises:
        CacheError: A file cannot be written in the ``with`` block.
    """
    folder = UnfinishedFolder(root)
    try:
        with writes_to(root):
            yield folder.path
    finally:
        folder.remove()


def remove_abandoned(root: Path) -> None:
    """Remove the unfinished folders of dead processes."""
    import filelock

    for path in (root / "unfinished").glob("*"):
        lock_file = path if path.suffix == _LOCK_SUFFIX else _lock_file(path)
        try:
            if lock_file.exists():
                lock = filelock.FileLock(lock_file, timeout=0)
                with lock:
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    lock_file.unlink(missing_ok=True)
            elif time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except (OSError, filelock.Timeout):  # another process uses it
            continue


def _lock_file(folder: Path) -> Path:
    return folder.with_suffix(_LOCK_SUFFIX)


def flush(path: Path) -> None:
    """Flush a file to the disk, so that after a power cut its rename implies its content."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


class RowFile:
    """A safetensors file of bfloat16 tensors that is written in blocks of rows.

    Args:
        path: The file.
        shapes: The shape of each tensor by name; all have the same number of rows.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        header, offset = {}, 0
        self._starts: dict[str, tuple[int, int]] = {}
        for name, shape in shapes.items():
            row_bytes = 2 * prod(shape[1:])
            self._starts[name] = offset, row_bytes
            end = offset + shape[0] * row_bytes
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, first: int, rows: Mapping[str, Tensor]) -> None:
        """Write rows ``[n, ...]`` of each tensor, starting at row ``first``.

        Raises:
            OSError: They cannot be written.
        """
        import torch

        for name, values in rows.items():
            start, row_bytes = self._starts[name]
            plain = values.detach().to("cpu", torch.bfloat16).contiguous()
            self._file.seek(self._data + start + first * row_bytes)
            self._file.write(plain.reshape(-1).view(torch.uint8).numpy().data)

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: The last rows do not fit on the disk.
        """
        self._file.close()
