"""Questions about video files of one's own: one JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vtc.video import VideoSource
from vtc_recipes.reading import read


@dataclass(frozen=True, kw_only=True)
class VideoQuestion:
    """A line of the file.

    Attributes:
        video: The video; a relative name is one in the folder of the file.
        question, answer: What is asked, and what is right.
        choices: What could be answered, the answer among them; without them it is free.
        kind: Of the question: reports have a column for each.
    """

    video: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    kind: str = "question"

    def source(self, frames: int) -> VideoSource:
        """Evenly spaced frames of the video."""
        return VideoSource(self.video, frames=frames)


def read_videos(path: str) -> list[VideoQuestion]:
    """Read a file.

    Raises:
        ValueError: All that is wrong with its lines, a video that is not there among them.
        OSError: The file cannot be read.
    """
    found, errors = [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        wrong: list[str] = []
        one = _read_line(line, Path(path).parent, wrong)
        errors += [f"{path}, line {number}: {problem}" for problem in wrong]
        if one is not None:
            found.append(one)
    if errors:
        raise ValueError("; ".join(errors))
    if not found:
        raise ValueError(f"{path} holds no questions")
    return found


def _read_line(line: str, folder: Path, wrong: list[str]) -> VideoQuestion | None:
    try:
        values = json.loads(line)
    except ValueError as error:
        wrong.append(f"is no JSON: {error}")
        return None
    one = read(VideoQuestion, values, "", wrong)
    if one is None:
        return None
    video = folder / Path(one.video).expanduser()
    if one.choices and one.answer not in one.choices:
        wrong.append(f"answer: {one.answer!r}: allowed is one of the choices {one.choices}")
    if not video.is_file():
        wrong.append(f"video: there is no file {video}")
    return None if wrong else VideoQuestion(**{**vars(one), "video": str(video)})
