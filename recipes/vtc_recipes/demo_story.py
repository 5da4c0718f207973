"""The second part of ``vtc demo``: a question that the keyframes alone do not answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import vtc
from vtc_recipes.synthetic import make_story
from vtc_recipes.synthetic.stories import final_answer

FRAMES, KEYFRAMES = 64, 2
WORDS = 12
"""Most words of an answer: up to six events, then the answer itself."""


@dataclass(frozen=True)
class StoryAnswers:
    """The answers about a story with merged tokens and without them.

    Attributes:
        frames: Number of frames.
        keyframes: Number of keyframes.
        question: The question in words.
        ground_truth: The right answer.
        events: Number of scenes that the question is about.
        covered: Number of these scenes with a keyframe.
        merged: The answer when each non-keyframe is one merged token.
        dropped: The answer when non-keyframes are dropped.
    """

    frames: int
    keyframes: int
    question: str
    ground_truth: str
    events: int
    covered: int
    merged: str
    dropped: str

    def to_dict(self) -> dict[str, Any]:
        """Return the values as plain JSON."""
        return asdict(self)


def ask_story(seed: int) -> StoryAnswers:
    """Ask the shipped model how many scenes of a story show a shape, with and without merging.

    Args:
        seed: Seed of the story, which has 64 frames in eight scenes and gets two keyframes.
    """
    example = make_story(seed, FRAMES, kind="count", split="test")
    question = example.question
    texts: list[str] = []
    for merger in (None, "drop"):  # None for the one that the model was trained with
        selector = vtc.selector("dks", keyframes=KEYFRAMES)
        model, processor = vtc.open_model("shipped", selector=selector, merger=merger)
        answer = vtc.ask(model, processor, example.video, question.text, max_new_tokens=WORDS)
        texts.append(final_answer(answer.text))
        # The same for both mergers.
        keyframes = [frame.index for frame in answer.report.keyframes]
    evidence = question.evidence
    return StoryAnswers(
        frames=len(example.video),
        keyframes=len(keyframes),
        question=question.text,
        ground_truth=question.answer,
        events=len(evidence),
        covered=sum(any(first <= k < end for k in keyframes) for first, end in evidence),
        merged=texts[0],
        dropped=texts[1],
    )
