"""Video files: paths and file:// addresses, and checks of their kind and of changes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from vtc.video.errors import VideoError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe, which can be read only once; save it to a file"),
    (stat.S_ISSOCK, "a socket; save the video to a file"),
    (stat.S_ISCHR, "a device; save the video to a file"),
    (stat.S_ISBLK, "a device; save the video to a file"),
)


def as_path(video: str | os.PathLike[Any]) -> Path:
    """Return the path of a file, given as a path or as a ``file://`` address.

    Raises:
        VideoError: It is an address on another machine.
        TypeError: It is a path of bytes.
    """
    text = os.fspath(video)
    if not isinstance(text, str):
        raise TypeError(f"expected a path to be a str, got bytes; write {os.fsdecode(text)!r}")
    if "://" not in text:
        return Path(text)
    parts = urlsplit(text)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        raise VideoError(f"{text}: is an address; download the video and give the file")
    if parts.query or parts.fragment:  # the name holds an unescaped ? or #
        return Path(unquote(text[len("file://") + len(parts.netloc) :]))
    return Path(url2pathname(parts.path))


@dataclass(frozen=True)
class FileIdentity:
    """The state of a regular file when it was indexed; later passes require the same state.

    Raises:
        VideoError: `of`: there is no such file, or it is not a regular file; `require_same`: it
            was changed or replaced.
    """

    path: Path
    state: tuple[int, ...]
    """Size, modification time, device and inode."""

    @staticmethod
    def of(path: Path) -> FileIdentity:
        name = path.name or path
        try:
            status = os.stat(path)
        except FileNotFoundError as error:
            folder = path.absolute().parent
            raise VideoError(f"{name}: there is no such file in {folder}") from error
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            raise VideoError(f"{name}: cannot be opened ({error})") from error
        for is_kind, kind in _KINDS:
            if is_kind(status.st_mode):
                raise VideoError(f"{name}: expected a video file, got {kind}")
        if status.st_size == 0:
            raise VideoError(f"{name}: the file is empty (0 bytes)")
        return FileIdentity(path, _state(status))

    def require_same(self) -> None:
        try:
            same = _state(os.stat(self.path)) == self.state
        except OSError:
            same = False
        if not same:
            raise VideoError(
                f"{self.path.name}: was changed or replaced after it was opened; open it again, "
                "once nothing writes to it"
            )


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino
