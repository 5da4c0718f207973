"""Read conversations about videos from the user's files, and check them before training starts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vtc_recipes.reading import read_rows
from vtc_recipes.training.config import Source
from vtc_recipes.training.datasets import ROWS
from vtc_recipes.training.rows import ConversationRow, Turn

_SHOWN = 20
"""Maximum number of errors listed in a message."""


@dataclass(frozen=True)
class Sample:
    """One conversation.

    Attributes:
        video: The file of a video, or of a still image, which is read as a video of one frame; None
            for text only. It comes at the start of the first turn.
        turns: Alternating user and assistant turns; the last is an answer.
        query: The query for selecting keyframes; None for the last user turn.
        source: The data set.
    """

    video: Path | None
    turns: tuple[Turn, ...]
    query: str | None
    source: Source


def missing_files(sources: Sequence[Source]) -> list[str]:
    """Return a line for each data file that is not set or does not exist."""
    missing = []
    for number, source in enumerate(sources):
        if source.share and not (source.path and Path(source.path).expanduser().exists()):
            problem = f"there is no file {source.path}" if source.path else "it is not set"
            missing.append(f"data.sources.{number}.path ({source.name}): {problem}")
    return missing


def load_samples(sources: Sequence[Source], seed: int) -> list[Sample]:
    """Read all sources in order; see `read_samples`.

    Raises:
        ValueError: A path is not set, or there are errors in the files.
    """
    used = [(number, source) for number, source in enumerate(sources) if source.share > 0]
    unset = [f"data.sources.{n}.path ({s.name})" for n, s in used if s.path is None]
    if unset:
        raise ValueError(
            f"no file is set for {', '.join(unset)}; give data.sources.N.path=FILE, or "
            "data.sources.N.share=0 to skip a source"
        )
    samples, errors = read_samples([source for _, source in used], seed)
    if errors:
        more = f"\n  and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        lines = "".join(f"\n  {error}" for error in errors[:_SHOWN])
        raise ValueError(f"the data have {len(errors)} errors:{lines}{more}")
    if not samples:
        raise ValueError("the data sources hold no samples")
    return samples


def read_samples(sources: Sequence[Source], seed: int) -> tuple[list[Sample], list[str]]:
    """Read sources whose paths are set.

    Args:
        seed: The seed for drawing samples if a source's ``share`` is below 1.

    Returns:
        The valid samples, and one line for each error: unreadable files, malformed entries and
        missing videos, with the file and its line or entry.
    """
    samples: list[Sample] = []
    errors: list[str] = []
    for source in sources:
        valid = _read_source(source, errors)
        if valid and source.share < 1:
            count = max(1, round(source.share * len(valid)))
            picks = random.Random(f"{seed} {source.name}").sample(range(len(valid)), count)
            valid = [valid[index] for index in sorted(picks)]
        samples += valid
    return samples, errors


def _read_source(source: Source, errors: list[str]) -> list[Sample]:
    path = Path(str(source.path)).expanduser()
    default_folder = path if path.is_dir() else path.parent
    folder = Path(source.video_folder).expanduser() if source.video_folder else default_folder
    samples = []
    try:
        rows, lines = read_rows(path, ROWS[source.format])
    except ValueError as error:
        errors.append(str(error))
        return []
    errors += lines
    for where, row in rows:
        try:
            samples.append(_sample(row, folder, source))
        except ValueError as error:
            errors.append(f"{where}: {error}")
    return samples


def _sample(row: ConversationRow, folder: Path, source: Source) -> Sample:
    turns = row.turns()
    if not turns or len(turns) % 2:
        raise ValueError(f"expected pairs of question and answer, got {len(turns)} turns")
    for number, turn in enumerate(turns):
        role = ("user", "assistant")[number % 2]
        if turn.role != role:
            raise ValueError(f"turn {number}: expected role {role}, got {turn.role}")
        if not turn.text.strip():
            raise ValueError(f"turn {number} ({turn.role}) has no text")
    video = None if row.file is None else folder / Path(row.file).expanduser()
    if video is not None and not video.is_file():
        raise ValueError(f"there is no file {video}")
    return Sample(video, tuple(turns), row.query, source)
