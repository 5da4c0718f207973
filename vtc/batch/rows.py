"""The rows of a batch: read them, check them, and group them by video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import field_validator

from vtc.plugins.sections import Row, SectionError, parse, parse_json, read_text

_MOST_PROBLEMS = 50
"""The maximum number of problems of a file that a message lists."""

RowId = str | int


class Question(Row):
    """One row: a question about a video. Other fields of the row are ignored."""

    id: Any
    video: str
    question: str

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: Any) -> RowId:
        if isinstance(value, bool) or not isinstance(value, RowId) or value == "":
            raise ValueError(f"expected a text or a whole number, got {value!r:.80}")
        return value

    @field_validator("video", "question")
    @classmethod
    def _check_text(cls, value: str) -> str:
        if not value.strip() or "\0" in value:
            raise ValueError(f"expected some text, got {value!r:.80}")
        return value


R = TypeVar("R", bound=Question)


@dataclass(frozen=True)
class Group:
    """Rows about one video that share a pass over it."""

    rows: tuple[Question, ...]

    @property
    def video(self) -> str:
        """The video, as it is written in the rows."""
        return self.rows[0].video

    def split(self) -> Iterator[Group]:
        """Yield a group for each row."""
        return (Group((row,)) for row in self.rows)


@dataclass(frozen=True)
class Shard:
    """The i-th of n parts of the rows, counted from 1; a part has all rows about its videos."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Parse a shard such as ``"2/8"``.

        Raises:
            ValueError: It has another form, or a number is out of range.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"expected --shard i/n with 1 <= i <= n, such as 2/8, got {text!r}")
        return cls(int(number), int(count))

    def rows(self, rows: Sequence[Question]) -> list[Question]:
        """Return the rows of this part: those about every n-th video."""
        videos = list(dict.fromkeys(row.video for row in rows))
        shard = set(videos[self.number - 1 :: self.count])
        return [row for row in rows if row.video in shard]


def read_rows(path: Path) -> list[Question]:
    """Read a file with one JSON object per line: ``{"id": ..., "video": ..., "question": ...}``.

    Raises:
        SectionError: All broken lines, missing fields and repeated ids.
        ValueError: The file cannot be read or holds no row.
    """
    texts = enumerate(read_text(path).removeprefix("\ufeff").split("\n"), 1)
    rows, problems = parse_lines(Question, path, ((n, text) for n, text in texts if text.strip()))
    if problems:
        raise SectionError(str(path), shorten(problems))
    if not rows:
        raise ValueError(
            f"{path} holds no row; write one JSON object per line, with id, video and question"
        )
    return rows


def parse_lines(
    kind: type[R], path: Path, texts: Iterable[tuple[int, str]]
) -> tuple[list[R], list[str]]:
    """Parse the numbered lines of a file; return the rows and all problems."""
    rows: list[R] = []
    problems: list[str] = []
    lines: dict[RowId, int] = {}
    for number, text in texts:
        label = f"line {number}"
        try:
            row = parse(kind, parse_json(text, label), str(path), label)
        except SectionError as error:
            problems += error.problems
            continue
        except ValueError as error:
            problems.append(str(error))
            continue
        first = lines.setdefault(row.id, number)
        if first != number:
            problems.append(f"{label} repeats id {row.id!r} of line {first}")
        rows.append(row)
    return rows, problems


def group_rows(rows: Iterable[Question], most: int) -> list[Group]:
    """Return groups of at most ``most`` rows about one video, in order of the first rows."""
    videos: dict[str, list[Question]] = {}
    for row in rows:
        videos.setdefault(row.video, []).append(row)
    return [
        Group(tuple(same[start : start + most]))
        for same in videos.values()
        for start in range(0, len(same), most)
    ]


def shorten(problems: Sequence[str]) -> list[str]:
    """Return the first problems, and the number of further ones."""
    more = len(problems) - _MOST_PROBLEMS
    return [*problems[:_MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
