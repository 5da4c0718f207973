"""Stages that train a finished tiny model on stories, whose answers take several scenes.

``stories`` teaches the language model the new questions with all tokens of all frames, from
`TinyRecipe.start`. ``evidence`` trains the result with a new merger and a new connector, and
``review`` with all questions that a model has learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from vtc_recipes.synthetic import COLOURS, Example
from vtc_recipes.synthetic.stories import (
    ORDINALS,
    STORIES,
    StoryQuestion,
    make_story,
    solve_story,
    tell,
)
from vtc_recipes.tiny.config import Parts, TinyRecipe
from vtc_recipes.tiny.curriculum import draw_format, draw_hours, draw_kinds, draw_long_format
from vtc_recipes.tiny.features import rows_of
from vtc_recipes.tiny.models import word_tokenizer
from vtc_recipes.tiny.sequences import Dialogue
from vtc_recipes.tiny.start import LANGUAGE_MODELS, check_vocabulary, grow, start_folder
from vtc_recipes.tiny.vlm import EXAMINED, LanguageStage, tokens_of, wrap_new
from vtc_recipes.tiny.world import Format, World

SCENES = 8
"""Scenes of a story; the longest story of each kind has at most six events."""
SHARES = {"order": 0.25, "longest": 0.3, "count": 0.1, "between": 0.2, "change": 0.15}
"""Shares of the kinds in training; those that take the longest to learn are the most frequent."""
_TURN, _OLD_TURNS = 22, 60
"""Approximate tokens of a turn, and of all old questions about a video, for the size of a batch."""
_TURNS = 5
"""Most turns about a video."""


def related_turns(rng: np.random.Generator, example: Example) -> list[tuple[str, str]]:
    """Draw questions about the events of a story, its own first, with answers as by `tell`.

    All name the same shapes, so the frames are merged for nearly the same query.
    """
    question, video = example.question, example.video
    if not isinstance(question, StoryQuestion):
        raise TypeError(f"expected the question of a story, got {question!r}")
    turns = []

    def add(kind: str, names: tuple[str, ...], ordinal: str | None, colour: str | None) -> None:
        other = StoryQuestion(kind, "", (), None, colour, names, ordinal)
        answers = solve_story(other, video)
        if len(answers) == 1 and other.text != question.text:
            turns.append((other.text, tell(replace(other, answer=answers.pop()), video)))

    if question.kind in ("order", "longest"):
        for _ in range(2):
            names = tuple(question.names[k] for k in rng.permutation(4).tolist())
            add("longest", names, None, None)
            for ordinal in ORDINALS:
                add("order", names, ordinal, None)
    else:
        shape = question.names[0]
        for colour in COLOURS:
            add("change", (shape,), None, colour)
        if question.kind != "between":  # always three there
            add("count", (shape,), None, None)
    others = [turns[k] for k in rng.permutation(len(turns))[: _TURNS - 1].tolist()]
    return [(question.text, tell(question, video)), *others]


class Stories(LanguageStage):
    """Answers to questions about stories of which every frame keeps all its tokens.

    It learns the questions where they are easiest, mostly from short videos, among old questions.
    """

    name = "stories"
    needs: ClassVar[tuple[str, ...]] = ("queries",)
    gated: ClassVar[tuple[str, ...]] = ("64",)
    takes_parts = False
    old: ClassVar[float] = 0.2
    """Share of the batches with the questions of the start, which a model forgets without them."""
    shares: ClassVar[Mapping[str, float]] = SHARES
    keyframes, selector = 64, "uniform"

    def sources(self, recipe: TinyRecipe) -> tuple[Path, Path]:
        """Return the VLM of the start and the dual encoder that knows the new questions."""
        return start_folder(recipe, *LANGUAGE_MODELS), self.folder / "queries"

    def open(self, start: Path, parts: Parts) -> Any:
        """Open the start as a stock model, give it the new words, and wrap it anew."""
        from transformers import LlavaOnevisionForConditionalGeneration

        vlm = LlavaOnevisionForConditionalGeneration.from_pretrained(start)
        tokenizer = word_tokenizer()
        check_vocabulary(self.processor.tokenizer, tokenizer)
        self.processor.tokenizer = tokenizer
        vlm.set_input_embeddings(grow(vlm.get_input_embeddings(), len(tokenizer)))
        vlm.config.text_config.vocab_size = len(tokenizer)
        vlm.lm_head.out_features = len(tokenizer)
        vlm.tie_weights()
        return wrap_new(vlm, self.processor, self.parts(parts), str(self.folder / "queries"))

    def parts(self, parts: Parts) -> Parts:
        """Return the parts to train with: every frame is a keyframe, so none is merged."""
        return Parts(selector={"name": "uniform", "keyframes": 64}, merger="drop")

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw stories of one format, or, for a share of the batches, old questions."""
        rng = np.random.default_rng((self.seed, number))
        done = number / self.settings.steps
        if rng.random() < self.old:
            return self.old_questions(rng)
        form = self.draw_format(rng, done)
        count = max(1, self.settings.batch // (tokens_of(form) + _TURNS * _TURN))
        kinds = rng.choice(tuple(self.shares), count, p=tuple(self.shares.values())).tolist()
        return {"dialogues": [self.story(self.seen, rng, form, kind)[0] for kind in kinds]}

    def old_questions(self, rng: np.random.Generator) -> Mapping[str, Any]:
        """Draw videos with the questions of the start."""
        form = self.old_format(rng)
        count = max(1, self.settings.batch // (tokens_of(form) + _OLD_TURNS))
        kinds = draw_kinds(rng, form, count)
        return {"dialogues": [self.seen.questions(rng, form, kind) for kind in kinds]}

    def old_format(self, rng: np.random.Generator) -> Format:
        """Draw the format of a batch of old questions."""
        return draw_format(rng, 0.4)

    def draw_format(self, rng: np.random.Generator, done: float) -> Format:
        """Draw the format of a batch when a share of the run is over.

        Videos of 16 frames, two a scene, hold nearly all there is to learn for a quarter of the
        tokens.
        """
        if done < 0.4:
            frames = 16
        elif done < 0.5:
            frames = (16, 24, 32)[int(rng.integers(3))]
        else:
            frames = 64 if rng.random() < 0.65 else (16, 32)[int(rng.integers(2))]
        return Format(frames, SCENES, self.keyframes, self.selector)

    def story(
        self, world: World, rng: np.random.Generator, form: Format, kind: str, alone: bool = False
    ) -> tuple[Dialogue, Example]:
        """Draw a story, and the dialogue about it."""
        example = make_story(
            int(rng.integers(2**31)),
            form.frames,
            kind=kind,
            split=world.split,
            segments=form.scenes,
            scenes=world.scenes,
        )
        own, rows = example.question, rows_of(example.video)
        keyframes = world.select(rng, rows, own.text, form).keyframes
        turns = related_turns(rng, example)[: 1 if alone else None]
        embedding = world.embed(own.text)
        return Dialogue(rows, keyframes, own.text, embedding, turns), example

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Measure the share of right answers about stories of 64 frames, in all and by kind.

        The list of events before an answer must be right too, so the share is a little less than
        that of `vtc_recipes.tiny.evaluate`.
        """
        rng, end = np.random.default_rng(0), self.processor.tokenizer.eos_token_id
        form = Format(64, SCENES, self.keyframes, self.selector)
        right: dict[str, list[bool]] = {kind: [] for kind in STORIES}
        for number in range(EXAMINED):
            kind = tuple(STORIES)[number % len(STORIES)]
            dialogue, _ = self.story(self.unseen, rng, form, kind, alone=True)
            logits, labels = self._forward(self.unseen, [dialogue])
            words = labels != end
            right[kind].append(bool((logits.argmax(-1) == labels)[words].all()))
        measured = {f"64, {kind}": sum(row) / len(row) for kind, row in right.items()}
        return {"64": sum(measured.values()) / len(measured), **measured}


class LongStories(Stories):
    """The same at full length, mostly about how long scenes last, which takes the longest."""

    name = "long_stories"
    needs = ("queries", "stories")
    shares = {"order": 0.15, "longest": 0.5, "count": 0.075, "between": 0.2, "change": 0.075}

    def sources(self, recipe: TinyRecipe) -> tuple[Path, Path]:
        """Return the VLM of the stage before and the dual encoder that knows the new questions."""
        return self.folder / self.needs[-1], self.folder / "queries"

    open = LanguageStage.open

    def draw_format(self, rng: np.random.Generator, done: float) -> Format:
        """Draw the format of a batch: most have 64 frames."""
        frames = 64 if rng.random() < 0.75 else (16, 32)[int(rng.integers(2))]
        return Format(frames, SCENES, self.keyframes, self.selector)


class FinalStories(LongStories):
    """The same again, for large batches and a small learning rate."""

    name = "final_stories"
    needs = ("queries", "long_stories")


class Evidence(Stories):
    """Answers to questions about stories, with the parts of the recipe.

    It starts from the last stage about stories before it.
    """

    name = "evidence"
    needs = ("queries", "stories")
    takes_parts = True

    def sources(self, recipe: TinyRecipe) -> tuple[Path, Path]:
        """Return the VLM of the stage before and the dual encoder that knows the new questions."""
        selector = recipe.vtc.selector
        self.keyframes = int(selector["keyframes"]) if isinstance(selector, Mapping) else 2
        self.selector = selector["name"] if isinstance(selector, Mapping) else selector
        return self.folder / self.before(recipe), self.folder / "queries"

    def before(self, recipe: TinyRecipe) -> str:
        """Return the name of the stage to start from."""
        names: list[str] = [stage.name for stage in recipe.stages]
        earlier = {*names[: names.index(self.name)]}
        kinds = (Stories, LongStories, FinalStories, Evidence)
        return [kind.name for kind in kinds if kind.name in earlier][-1]

    def parts(self, parts: Parts) -> Parts:
        """Return the parts of the recipe."""
        return parts

    def draw_format(self, rng: np.random.Generator, done: float) -> Format:
        """Draw the format of a batch: most have 64 frames, as in use."""
        frames = 64 if rng.random() < 0.7 else (16, 24, 32)[int(rng.integers(3))]
        return Format(frames, SCENES, self.keyframes, self.selector)


class Review(Evidence):
    """Answers to all questions: stories, and the old ones about videos of all lengths.

    Long videos are forgotten while the model learns stories.
    """

    name = "review"
    needs = ("queries", "evidence")
    old = 0.6

    open = LanguageStage.open

    def old_format(self, rng: np.random.Generator) -> Format:
        """Draw the format of a batch of old questions, of up to 10,000 frames."""
        chance = rng.random()
        if chance < 0.35:
            return draw_hours(rng)
        return draw_long_format(rng) if chance < 0.7 else draw_format(rng, 0.6)
