"""Data sets of synthetic videos: files that play, and conversations about them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.examples import fair_questions, make_example
from vtc_recipes.synthetic.questions import Question
from vtc_recipes.synthetic.scenes import frame_size
from vtc_recipes.synthetic.videos import SyntheticVideo, check_writable


def write_dataset(
    folder: str | os.PathLike[str],
    *,
    videos: int = 200,
    frames: int = 16,
    kinds: Sequence[str] = ("texture",),
    questions: int = 1,
    split: str = "train",
    seed: int = 0,
    size: int = 48,
) -> Path:
    """Write videos, and a conversation about each in the ``messages`` format of ``vtc train``.

    The JSONL is written last: where there is one, the data set is whole.

    Args:
        folder: Gets ``SPLIT.jsonl``, and ``SPLIT/00000.mp4`` and so on; it may hold other splits.
        videos: How many.
        frames: Of each video, one a second.
        kinds: Of questions, in turn; one that stands twice is asked twice as often.
        questions: Most questions about a video, one after the other. More than one need as many
            keyframes as the video has scenes: frames are chosen for the last question alone.
        split: Of all scenes.
        seed: Of the first video; the others count on from it.
        size: Height and width of frames, an even number.

    Returns:
        The JSONL file.

    Raises:
        ValueError: An option is out of range, or the folder holds such a data set already.

    >>> write_dataset("data", videos=200, frames=16, kinds=["texture"])
    PosixPath('data/train.jsonl')
    """
    for name, value, least in (
        ("videos", videos, 1),
        ("questions", questions, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: allowed is a whole number from {least}")
    if not kinds:
        raise ValueError("kinds is empty: name at least one, such as texture")
    check_writable(*frame_size(size))

    def draw(number: int) -> tuple[SyntheticVideo, list[Question]]:
        """A video and what is asked about it, its own question first."""
        in_turn = [kinds[(number + turn) % len(kinds)] for turn in range(questions)]
        example = make_example(seed + number, frames, kind=in_turn[0], split=split, size=size)
        rng = np.random.default_rng((SPLITS.index(split), seed + number, 4))
        asked = [example.question]
        for kind in in_turn[1:]:
            left = [one for one in fair_questions(example.video, kind) if one not in asked]
            if left:
                asked.append(left[int(rng.integers(len(left)))])
        return example.video, asked

    for number in range(len(kinds)):
        draw(number)  # refuses what is wrong with kinds, frames and split
    file = Path(folder, f"{split}.jsonl")
    if file.exists():
        raise ValueError(f"{file} is there already: give another folder, or remove it")
    Path(folder, split).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(videos):
        video, asked = draw(number)
        name = f"{split}/{number:05}.mp4"
        video.write(Path(folder, name), fps=1)
        lines.append(json.dumps({"messages": _messages(name, asked)}) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _messages(video: str, asked: Sequence[Question]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for question in asked:
        text = {"type": "text", "text": question.text}
        shown = [] if messages else [{"type": "video", "video": video}]
        messages.append({"role": "user", "content": [*shown, text]})
        messages.append({"role": "assistant", "content": question.answer})
    return messages
