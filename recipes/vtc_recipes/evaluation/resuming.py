"""The files of a resumable run: its settings, and a record for each finished question."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vtc.plugins.sections import load_json, parse_json


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Exit on Ctrl-C and SIGTERM, which Slurm and others send, with a line about resuming.

    Raises:
        SystemExit: The process was told to stop; the code is 130 or 143.
        OSError: The disk is full.
    """
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        print(f"vtc: interrupted; the same command resumes the run in {folder}", file=sys.stderr)
        sys.exit(128 + (signals or [signal.SIGINT])[0])
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"{error.strerror} for {folder}; free some, and the same command resumes"
        raise OSError(message) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def make_folder(folder: Path) -> None:
    """Create a folder for results, unless it exists.

    Raises:
        ValueError: It is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected --out to be a folder, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create a folder and lock it against other processes.

    Raises:
        ValueError: Another process is using it, or it is a file.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is using {folder}; wait for it, or stop it") from None
    with lock:
        yield


def claim_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run to ``settings.json``, or compare them with those in the file.

    Raises:
        ValueError: The folder holds results of other settings; the message names them.
    """
    file = folder / "settings.json"
    current = json.loads(json.dumps(settings))
    if not file.exists():
        write_json(file, current)
        return
    before = load_json(file)
    other = sorted(name for name in {*current, *before} if current.get(name) != before.get(name))
    if other:
        raise ValueError(
            f"{folder} holds results with another {', '.join(other)}; choose another --out"
        )


def model_files(model: str) -> list[list[Any]] | None:
    """Return the names, sizes and times of the files in a model's folder; None if it is no folder.

    Changed weights in the same folder are other settings.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read JSON lines; an incomplete last line, as left by a killed process, is skipped.

    Raises:
        ValueError: Another line is not valid JSON in UTF-8.
    """
    if not file.exists():
        return []
    complete, _, _ = file.read_bytes().rpartition(b"\n")
    try:
        lines = enumerate(complete.decode().split("\n") if complete else [], 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    return [parse_json(line, f"{file}, line {number}") for number, line in lines]


def append_lines(file: Path, rows: Iterable[Any]) -> None:
    """Append JSON lines and sync them to disk; an incomplete last line is removed first."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with file.open("ab+") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def write_lines(file: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines; the file is complete or as before."""
    _write(file, "".join(json.dumps(row, default=str, ensure_ascii=False) + "\n" for row in rows))


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file; it is complete or as before."""
    _write(file, json.dumps(value, indent=2) + "\n")


def _write(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
