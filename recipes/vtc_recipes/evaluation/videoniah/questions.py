"""Read multiple-choice questions about video files: Video-MME's, or your own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from vtc.plugins.sections import Row, SectionError
from vtc_recipes.reading import read_rows

_ENDINGS = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts"}


class _QuestionRow(Row):
    """A row of a file; in Video-MME it has ``videoID`` and ``task_type``."""

    question: str
    options: list[str]
    answer: str
    video: str = ""
    videoID: str = ""  # noqa: N815 - Video-MME's name
    kind: str = ""
    task_type: str = ""
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class ClipQuestion:
    """A multiple-choice question about a video, or a part of it.

    Attributes:
        video: The file, relative to the folder of videos.
        question: The question, without options.
        options: The texts of the options, without letters.
        answer: The letter of the right option.
        kind: The kind of question.
        start, end: The part of the video in seconds; None for the start and end of the video.
    """

    video: str
    question: str
    options: tuple[str, ...]
    answer: str
    kind: str
    start: float | None = None
    end: float | None = None


def read_questions(file: Path, videos: Path) -> list[ClipQuestion]:
    """Read questions whose videos are in a folder.

    Args:
        file: JSON lines, a JSON list or parquet. A row has ``question``, ``options``, ``answer`` (a
            letter or an option) and ``video`` (a file in the folder) or, as in Video-MME,
            ``videoID`` (a file name without its suffix). It may have ``kind`` or ``task_type``, and
            ``start`` and ``end`` in seconds.
        videos: The folder of videos.

    Raises:
        ValueError: The file cannot be read; a `SectionError` lists all errors in it.
        ImportError: The file is parquet and pyarrow is not installed.
    """
    if not videos.is_dir():
        raise ValueError(f"expected a folder of videos, got {str(videos)!r}")
    names = _names(videos)
    questions: list[ClipQuestion] = []
    rows, errors = read_rows(file, _QuestionRow)
    for where, row in rows:
        try:
            questions.append(_question(row, names))
        except ValueError as error:
            errors.append(f"{where}: {error}")
    if errors:
        more = [f"and {len(errors) - 20} more"] if len(errors) > 20 else []
        raise SectionError(str(file), [*errors[:20], *more])
    if not questions:
        raise ValueError(f"{file} holds no questions")
    return questions


def video_files(folder: Path) -> list[str]:
    """Return the videos in a folder and its subfolders, relative to it, sorted."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _names(folder: Path) -> dict[str, str]:
    """Return the videos in a folder by path, and by name without suffix."""
    files = video_files(folder)
    by_name = {Path(file).stem: file for file in reversed(files)}
    return {**by_name, **{file: file for file in files}}


def _question(row: _QuestionRow, names: dict[str, str]) -> ClipQuestion:
    name = row.video or row.videoID
    if not name:
        raise ValueError("video is missing")
    if name not in names:
        raise ValueError(f"there is no video {name!r} in the folder")
    if not 2 <= len(row.options) <= len(ascii_uppercase):
        raise ValueError(f"expected 2 to 26 options, got {len(row.options)}")
    if row.start is not None and row.start < 0:
        raise ValueError(f"expected start >= 0, got {row.start}")
    if row.end is not None and row.end <= (row.start or 0):
        raise ValueError(f"expected end > start, got {row.end}")
    options = _texts(row.options)
    return ClipQuestion(
        video=names[name],
        question=row.question.strip(),
        options=options,
        answer=_letter(row.answer.strip(), options),
        kind=row.kind or row.task_type or "question",
        start=row.start,
        end=row.end,
    )


def _texts(options: Sequence[str]) -> tuple[str, ...]:
    """Return options without letters: ``A. red`` becomes ``red`` if all options have a letter."""
    matches = [re.fullmatch(r"\(?([A-Z])[.):]\s*(.+)", text.strip(), re.DOTALL) for text in options]
    letters = "".join(match[1] for match in matches if match)
    if letters == ascii_uppercase[: len(options)]:
        return tuple(match[2].strip() for match in matches if match)
    return tuple(text.strip() for text in options)


def _letter(answer: str, options: Sequence[str]) -> str:
    letters = ascii_uppercase[: len(options)]
    if answer in options:
        return letters[options.index(answer)]
    if len(answer) == 1 and answer in letters:
        return answer
    raise ValueError(
        f"expected answer to be one of {', '.join(letters)} or an option, got {answer!r}"
    )
