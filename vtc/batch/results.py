"""The file of results: one writer, one line a row, safe to end at any moment."""

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
"""What every line starts with."""

Line = Mapping[str, Any]
"""A result: ``id``, ``video``, ``question``, the result itself, ``error`` and ``report``."""


class WrittenLine(Question):
    """What a run reads of a line that an earlier run wrote."""

    error: str | None


@dataclass
class ResultFile:
    """A file of results that this process alone writes to.

    Attributes:
        path: The file.
        lines: What it holds, without the results themselves.
    """

    path: Path
    lines: list[WrittenLine] = field(default_factory=list)

    @property
    def ids(self) -> set[RowId]:
        """The ids of the rows that have a line."""
        return {line.id for line in self.lines}

    def append(self, line: Line) -> None:
        """Write a line; it is on the disk when this returns."""
        text = json.dumps(line) + "\n"
        with self.path.open("ab", buffering=0) as file:
            rest = memoryview(text.encode())
            while rest:  # an unbuffered write may write a part
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        self.lines.append(
            WrittenLine(**{name: line[name] for name in ("id", "video", "question", "error")})
        )

    def remove_errors(self) -> int:
        """Remove the lines with an error, so that their rows are missing; return their number."""
        count = sum(line.error is not None for line in self.lines)
        if count:
            kept = [text for text in self._texts() if json.loads(text)["error"] is None]
            _replace(self.path, b"".join(kept))
            self.lines = [line for line in self.lines if line.error is None]
        return count

    def check_rows(self, rows: Sequence[Question]) -> None:
        """Refuse a file whose lines do not belong to the rows.

        Raises:
            SectionError: All ids that the rows lack, or have with another video or question.
        """
        known = {row.id: row for row in rows}
        problems = []
        for line in self.lines:
            row = known.get(line.id)
            if row is None:
                problems.append(f"id {line.id!r} is none of the rows")
            elif (row.video, row.question) != (line.video, line.question):
                problems.append(f"id {line.id!r} has another video or question than its row")
        if problems:
            hint = "it was written for other rows; give another --out"
            raise SectionError(str(self.path), [*shorten(problems), hint])

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Compare the settings with those of the run that started the file, or keep them.

        They are in a file beside it, ``ANSWERS.jsonl.settings``.

        Raises:
            ValueError: They differ, so that the results would not belong together.
        """
        file = self.path.with_name(f"{self.path.name}.settings")
        settings = json.loads(json.dumps(settings))  # as a file has them: no tuples
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
        """Read the lines; cut off a last one that a killed process did not finish.

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
    """Open a file of results for this process alone, and read what it holds.

    The lock is a file beside it, ``ANSWERS.jsonl.lock``; the system frees it when the process ends.

    Raises:
        ValueError: Another process has it open, it cannot be written, or it holds other lines.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock").acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"another run is writing to {path}; wait for its end, or give another --out"
        ) from error
    with lock:
        path.touch()
        results = ResultFile(path)
        results._read()
        yield results


def _is_torn(text: bytes) -> bool:
    """Return whether a line is one of `ResultFile.append` without its end."""
    text = text.rstrip(b"\0")  # what a file system may leave after a power failure
    return not text.endswith(b"\n") and text[: len(_START)] == _START[: len(text)]


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    """Write a whole file, or none of it."""
    unfinished = path.with_name(f"{path.name}.partial")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
