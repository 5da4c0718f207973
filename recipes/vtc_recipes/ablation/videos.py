"""Questions about your own video files: one JSON object per line."""

from __future__ import annotations

from pathlib import Path

from vtc.video import VideoSource
from vtc_recipes.ablation.config import Task
from vtc_recipes.reading import read_rows
from vtc_recipes.schema import Items, RecipeError, Section


class VideoQuestion(Section):
    """A line of the file.

    Attributes:
        video: The path of the video, relative to the folder of the file.
        question, answer: The question and the right answer.
        choices: Possible answers, including the right one; if empty, the answer is free text.
        kind: The kind of the question; reports have a column per kind.
    """

    video: str
    question: str
    answer: str
    choices: Items[str] = ()
    kind: str = "question"

    def source(self, task: Task) -> VideoSource:
        """Open the video, sampled evenly or at the task's rate."""
        if task.fps is None:
            return VideoSource(self.video, frames=task.frames)
        return VideoSource(self.video, fps=task.fps, max_frames=task.frames)


def read_videos(path: str) -> list[VideoQuestion]:
    """Read a file.

    Raises:
        ValueError: The file cannot be read, or its lines have errors, such as missing videos.
    """
    rows, errors = read_rows(Path(path), VideoQuestion)
    questions = []
    for where, row in rows:
        video = Path(path).parent / Path(row.video).expanduser()
        if row.choices and row.answer not in row.choices:
            errors.append(
                f"{where}: expected answer to be one of {row.choices}, got {row.answer!r}"
            )
        if not video.is_file():
            errors.append(f"{where}: video: there is no file {video}")
        questions.append(row.model_copy(update={"video": str(video)}))
    if errors:
        raise RecipeError(path, errors)
    if not questions:
        raise ValueError(f"{path} holds no questions")
    return questions
