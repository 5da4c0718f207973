"""Write data sets of synthetic videos: video files and conversations about them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtc.interfaces.part import require
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

    The JSONL is written last: if it exists, the data set is complete.

    Args:
        folder: The folder for ``SPLIT.jsonl`` and ``SPLIT/00000.mp4``, ...; it may hold other
            splits.
        videos: Number of videos.
        frames: Length of each video, one frame per second.
        kinds: Kinds of questions, in turn; list a kind twice to ask it twice as often.
        questions: Maximum number of questions per video, in one conversation. With more than one,
            training needs as many keyframes as scenes, because keyframes are selected for the last.
        split: Split of all scenes.
        seed: Seed of the first video; the next videos have the next seeds.
        size: Height and width of frames in pixels, an even number.

    Returns:
        The JSONL file.

    Raises:
        ValueError: An option is out of range, or the folder already holds such a data set.

    >>> write_dataset("data", videos=200, frames=16, kinds=["texture"])
    PosixPath('data/train.jsonl')
    """
    for name, value, least in (
        ("videos", videos, 1),
        ("questions", questions, 1),
        ("seed", seed, 0),
    ):
        require(value >= least, name, value, f"an integer >= {least}")
    require(len(kinds) > 0, "kinds", kinds, "at least one, such as 'texture'")
    check_writable(*frame_size(size))

    def draw(number: int) -> tuple[SyntheticVideo, list[Question]]:
        """Draw a video and questions about it, starting with the one it was drawn for."""
        in_turn = [kinds[(number + turn) % len(kinds)] for turn in range(questions)]
        example = make_example(seed + number, frames, kind=in_turn[0], split=split, size=size)
        rng = np.random.default_rng((SPLITS.index(split), seed + number, 4))
        turns = [example.question]
        for kind in in_turn[1:]:
            unused = [q for q in fair_questions(example.video, kind) if q not in turns]
            if unused:
                turns.append(unused[int(rng.integers(len(unused)))])
        return example.video, turns

    for number in range(len(kinds)):
        draw(number)  # raises if kinds, frames or split are invalid
    file = Path(folder, f"{split}.jsonl")
    if file.exists():
        raise ValueError(f"{file} already exists; choose another folder, or remove it")
    Path(folder, split).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(videos):
        video, turns = draw(number)
        name = f"{split}/{number:05}.mp4"
        video.write(Path(folder, name), fps=1)
        lines.append(json.dumps({"messages": _messages(name, turns)}) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _messages(video: str, questions: Sequence[Question]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for question in questions:
        text = {"type": "text", "text": question.text}
        before = [] if messages else [{"type": "video", "video": video}]
        messages.append({"role": "user", "content": [*before, text]})
        messages.append({"role": "assistant", "content": question.answer})
    return messages
