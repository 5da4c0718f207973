"""A synthetic world with known ground truth, and needles in haystacks made of it.

Videos of any length (`videos`) are sequences of scenes (`scenes`). Questions about them have one
right answer and known evidence (`questions`, `examples`); the answers to `stories` need more scenes
than the keyframes show.
"""

from __future__ import annotations

from vtc_recipes.synthetic.contents import SPLITS
from vtc_recipes.synthetic.drawing import COLOURS, SHAPES, TEXTURES
from vtc_recipes.synthetic.examples import make_example
from vtc_recipes.synthetic.questions import (
    KINDS,
    Example,
    Question,
    caption,
    covers,
    vocabulary,
    words,
)
from vtc_recipes.synthetic.scenes import Scene
from vtc_recipes.synthetic.stories import STORIES, StoryQuestion, held_share, make_story
from vtc_recipes.synthetic.videos import Segment, SyntheticVideo, random_video

__all__ = [
    "COLOURS",
    "KINDS",
    "SHAPES",
    "SPLITS",
    "STORIES",
    "TEXTURES",
    "Example",
    "Question",
    "Scene",
    "Segment",
    "StoryQuestion",
    "SyntheticVideo",
    "caption",
    "covers",
    "held_share",
    "make_example",
    "make_story",
    "random_video",
    "vocabulary",
    "words",
]
