"""A synthetic world whose truth is known, and needles in haystacks made of it.

Scenes (`scenes`) follow one another in videos of any length (`videos`), about which there are
questions with one right answer and known evidence (`questions`, `examples`).
"""

from __future__ import annotations

from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.drawing import COLOURS, SHAPES, TEXTURES
from vtc_recipes.synthetic.examples import Example, make_example
from vtc_recipes.synthetic.questions import KINDS, Question, caption, covers, vocabulary, words
from vtc_recipes.synthetic.scenes import Scene
from vtc_recipes.synthetic.videos import Segment, SyntheticVideo, random_video

__all__ = [
    "COLOURS",
    "KINDS",
    "SHAPES",
    "SPLITS",
    "TEXTURES",
    "Example",
    "Question",
    "Scene",
    "Segment",
    "SyntheticVideo",
    "caption",
    "covers",
    "make_example",
    "random_video",
    "vocabulary",
    "words",
]
