"""The file of results: one writer, one line per row, valid after a kill at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vtc.batch.rows import Question, RowId, parse_lines, shorten
from vtc.plugins.sections import SectionError, load_json

_START = b'{"id": '
"""The start of every line."""

Line = Mapping[str, Any]
"""A result: ``id``, ``video``, ``question``, the result itself, ``error`` and ``report``."""


class WrittenLine(Question):
    """The fields that a run reads from a line of an earlier run."""

    error: str | None


@dataclass
class ResultFile:
    """A file of results that only this process writes to.

    Attributes:
        path: The file.
        lines: The lines of the file, without the results.
    """

    path: Path
    lines: list[WrittenLine] = field(default_factory=list)

    @property
    def ids(self) -> set[RowId]:
        """The ids of the rows that have a line."""
        return {line.id for line in self.lines}

    def append(self, line: Line) -> None:
        """Write a line and flush it to the disk."""
        text = json.dumps(line) + "\n"
        with self.path.open("ab", buffering=0) as file:
            rest = memoryview(text.encode())
            while rest:  # an unbuffered write may be partial
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        self.lines.append(
            WrittenLine(**{name: line[name] for name in ("id", "video", "question", "error")})
        )

    def remove_errors(self) -> int:
        """Remove the lines with an error, so that their rows run again; return their number."""
        count = sum(line.error is not None for line in self.lines)
        if count:
            kept = [text for text in self._texts() if json.loads(text)["error"] is None]
            _replace(self.path, b"".join(kept))
            self.lines = [line for line in self.lines if line.error is None]
        return count

    def check_rows(self, rows: Sequence[Question]) -> None:
        """Check that the lines belong to the rows.

        Raises:
            SectionError: All ids that are not in the rows, or have another video or question.
        """
        by_id = {row.id: row for row in rows}
        problems = []
        for line in self.lines:
            row = by_id.get(line.id)
            if row is None:
                problems.append(f"id {line.id!r} is not in the rows")
            elif (row.video, row.question) != (line.video, line.question):
                problems.append(f"id {line.id!r} has another video or question than its row")
        if problems:
            hint = "it was written for other rows; give another --out"
            raise SectionError(str(self.path), [*shorten(problems), hint])

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Compare the settings with those of the first run of the file, or store them.

        They are stored next to it in ``ANSWERS.jsonl.settings``.

        Raises:
            ValueError: They differ, so the results would not be comparable.
        """
        file = self.path.with_name(f"{self.path.name}.settings")
        settings = json.loads(json.dumps(settings))  # lists for tuples, as in the file
        if not self.lines or not file.is_file():
            _replace(file, (json.dumps(settings, indent=1) + "\n").encode())
            return
        before = load_json(file)
        names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if names:
            old, new = (
                ", ".join(f"{name}={values.get(name)!r}" for name in names)
                for values in (before, settings)
            )
            raise ValueError(f"{self.path} was written with {old}, not {new}; give another --out")

    def _texts(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True)

    def _read(self) -> None:
        """Read the lines; remove an incomplete last line of a killed process.

        Raises:
            SectionError: All other broken lines and repeated ids.
        """
        texts = self._texts()
        torn = texts.pop() if texts and _is_torn(texts[-1]) else b""
        decoded = enumerate((text.decode(errors="replace") for text in texts), 1)
        lines, problems = parse_lines(WrittenLine, self.path, decoded)
        self.lines += lines
        if problems:
            hint = "remove these lines, or give another --out"
            raise SectionError(str(self.path), [*shorten(problems), hint])
        if torn:
            _truncate(self.path, sum(map(len, texts)))


@contextmanager
def open_results(path: Path) -> Iterator[ResultFile]:
    """Open a file of results for this process only, and read its lines.

    The lock is the file ``ANSWERS.jsonl.lock``; the system releases it when the process ends.

    Raises:
        ValueError: Another process has the file open, or it holds other lines.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock").acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"another run is writing to {path}; wait until it ends, or give another --out"
        ) from error
    with lock:
        path.touch()
        results = ResultFile(path)
        results._read()
        yield results


def _is_torn(text: bytes) -> bool:
    """Return whether a line of `ResultFile.append` is incomplete."""
    text = text.rstrip(b"\0")  # a file system may leave these after a power failure
    return not text.endswith(b"\n") and text[: len(_START)] == _START[: len(text)]


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    unfinished = path.with_name(f"{path.name}.partial")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
