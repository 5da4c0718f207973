"""Stages that train a finished tiny model on stories, whose answers take several scenes.

``queries`` teaches the dual encoder's text side the new questions; its vision side is frozen, so
selectors see frames as before. ``stories`` teaches the language model the new questions with all
tokens of all frames. Both start from `TinyRecipe.start`. ``evidence`` trains the result with a new
merger and a new connector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import vtc
from vtc_recipes.synthetic import COLOURS, SHAPES, Example
from vtc_recipes.synthetic.stories import (
    ORDINALS,
    STORIES,
    StoryQuestion,
    make_story,
    solve_story,
    tell,
)
from vtc_recipes.tiny.bank import Bank, build_bank
from vtc_recipes.tiny.config import Parts, StageSettings, TinyRecipe
from vtc_recipes.tiny.curriculum import draw_format, draw_hours, draw_kinds, draw_long_format
from vtc_recipes.tiny.dual_encoder import draw_texts, embed_texts, matching_loss
from vtc_recipes.tiny.features import embeddings_of, rows_of
from vtc_recipes.tiny.models import word_tokenizer
from vtc_recipes.tiny.pretext import UNSEEN
from vtc_recipes.tiny.sequences import Dialogue
from vtc_recipes.tiny.stage import Stage
from vtc_recipes.tiny.trained import WEIGHTS
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


def start_folder(recipe: TinyRecipe) -> Path:
    """Return the folder of the models that a recipe starts from."""
    return WEIGHTS if recipe.start == "shipped" else Path(recipe.start)


def check_vocabulary(old: Any, new: Any) -> None:
    """Check that a new tokenizer holds every token of an old one under its number.

    Raises:
        ValueError: It does not, so trained embeddings would belong to other words.
    """
    numbers = new.get_vocab()
    moved = [word for word, number in old.get_vocab().items() if numbers.get(word) != number]
    if moved:
        raise ValueError(
            f"expected the start model's token ids to be unchanged, but they differ for {moved}; "
            "start from models of the same synthetic world"
        )


def grow(embedding: nn.Embedding, size: int) -> nn.Embedding:
    """Return an embedding of more rows, the new ones as large as the old ones are on average."""
    rows = embedding.weight.detach()
    new = nn.Embedding(size, rows.shape[1])  # drawn from a standard normal distribution
    with torch.no_grad():
        new.weight.mul_(rows.std())
        new.weight[: len(rows)] = rows
    return new


def draw_story_texts(rng: np.random.Generator, count: int) -> tuple[list[str], Tensor]:
    """Draw texts of stories and which shapes each names, ``[count, 8]`` bool."""
    texts, named = [], torch.zeros(count, len(SHAPES), dtype=torch.bool)
    for number in range(count):
        question = draw_question(rng, tuple(STORIES)[int(rng.integers(len(STORIES)))])
        texts.append(question.text)
        named[number, [SHAPES.index(name) for name in question.names]] = True
    return texts, named


def draw_question(rng: np.random.Generator, kind: str) -> StoryQuestion:
    """Draw the text of a question of a kind; its answer is left empty."""
    names = [SHAPES[k] for k in rng.permutation(len(SHAPES)).tolist()]
    number = {"order": 4, "longest": 4, "between": 3}.get(kind, 1)
    colour = tuple(COLOURS)[int(rng.integers(len(COLOURS)))] if kind == "change" else None
    ordinal = ORDINALS[int(rng.integers(len(ORDINALS)))]
    return StoryQuestion(kind, "", (), None, colour, tuple(names[:number]), ordinal)


class Queries(Stage):
    """Match questions of stories, and of the old kinds, with the frames of a fixed vision tower."""

    name = "queries"
    gated = ("found",)
    model: nn.Module

    def __init__(self, settings: StageSettings, recipe: TinyRecipe, folder: Path) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        super().__init__(settings, recipe, folder)
        start = start_folder(recipe) / "dual_encoder"
        self.clip = CLIPModel.from_pretrained(start)
        self.tokenizer = word_tokenizer(end_texts=True)
        check_vocabulary(AutoTokenizer.from_pretrained(start), self.tokenizer)
        embeddings = self.clip.text_model.embeddings
        embeddings.token_embedding = grow(embeddings.token_embedding, len(self.tokenizer))
        self.clip.config.text_config.vocab_size = len(self.tokenizer)
        self.clip.to(self.device)
        self.image_processor = AutoImageProcessor.from_pretrained(start)
        self.model = nn.ModuleList([self.clip.text_model, self.clip.text_projection])
        self.seen, self.unseen = (
            self._frames(build_bank("train", settings.scenes)),
            self._frames(build_bank("validation", UNSEEN)),
        )

    def _frames(self, bank: Bank) -> tuple[Tensor, Tensor, Tensor]:
        """Return an embedding of each scene ``[S, d]``, its shapes and its colours ``[S, 4]``."""
        return embeddings_of(self.clip, bank)[3::8], bank.shapes, bank.colours

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw a batch of texts (half from the earlier task), scenes, and their match scores."""
        rng = np.random.default_rng((self.seed, number))
        frames, shapes, colours = self.seen
        scenes = torch.from_numpy(rng.choice(len(frames), self.settings.batch, replace=False))
        half = self.settings.batch // 2
        old, of_shape, of_colour = draw_texts(rng, half)
        new, named = draw_story_texts(rng, half)
        has_shape = (shapes[scenes][None] == of_shape[:, None, None]).any(-1).float()
        has_colour = (colours[scenes][None] == of_colour[:, None, None]).any(-1)
        has_colour &= of_colour[:, None] > 0
        return {
            "texts": old + new,
            "frames": frames[scenes],
            "matches": torch.cat(
                [torch.maximum(has_shape, 0.5 * has_colour), shows_any(shapes[scenes], named)]
            ),
        }

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the matching loss of `dual_encoder`."""
        texts = embed_texts(self.clip, self.tokenizer, batch["texts"])
        scale = self.clip.logit_scale.detach().exp().clamp(max=100)
        matches = batch["matches"].to(self.device)
        return matching_loss(texts, batch["frames"].to(self.device), matches, scale)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Measure how well unseen scenes are found.

        Returns:
            ``found``: the share of scenes with a named shape that are more relevant to a story's
            question than 98 of 100 scenes without one; ``found, KIND`` by kind.
        """
        frames, shapes, _ = self.unseen
        rng, measured = np.random.default_rng(0), {}
        for kind in STORIES:
            questions = [draw_question(rng, kind) for _ in range(40)]
            texts = embed_texts(self.clip, self.tokenizer, [q.text for q in questions]).cpu()
            hits = []
            for row, question in zip(texts @ frames.T, questions, strict=True):
                named = torch.tensor([[shape in question.names for shape in SHAPES]])
                seen = shows_any(shapes, named)[0] > 0
                hits.append(row[seen] > row[~seen].quantile(0.98))
            measured[f"found, {kind}"] = torch.cat(hits).float().mean().item()
        return {"found": sum(measured.values()) / len(measured), **measured}

    def save(self, folder: Path) -> None:
        """Write a CLIP folder."""
        for part in (self.clip, self.image_processor, self.tokenizer):
            part.save_pretrained(folder)


def shows_any(shapes: Tensor, named: Tensor) -> Tensor:
    """Return whether scenes show a named shape.

    Args:
        shapes: ``[S, 4]`` int64, as in a `Bank`.
        named: ``[t, 8]`` bool, the shapes that each text names.

    Returns:
        ``[t, S]`` float32, 0 or 1.
    """
    padded = torch.cat([torch.zeros(len(named), 1, dtype=torch.bool), named], dim=1)
    return padded[:, shapes].any(-1).float()


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
    gated = ("64",)
    takes_parts = False
    old: ClassVar[float] = 0.2
    """Share of the batches with the questions of the start, which a model forgets without them."""
    keyframes, selector = 64, "uniform"

    def sources(self, recipe: TinyRecipe) -> tuple[Path, Path]:
        """Return the VLM of the start and the dual encoder that knows the new questions."""
        return start_folder(recipe) / "vlm", self.folder / "queries"

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
        kinds = rng.choice(tuple(SHARES), count, p=tuple(SHARES.values())).tolist()
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
        keyframes = world.select(rng, rows, own.text, form)
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


class Evidence(Stories):
    """Answers to questions about stories, with the parts of the recipe."""

    name = "evidence"
    needs = ("queries", "stories")
    takes_parts = True

    def sources(self, recipe: TinyRecipe) -> tuple[Path, Path]:
        """Return the VLM of the stage before and the dual encoder that knows the new questions."""
        selector = recipe.vtc.selector
        self.keyframes = int(selector["keyframes"]) if isinstance(selector, Mapping) else 2
        self.selector = selector["name"] if isinstance(selector, Mapping) else selector
        return self.folder / "stories", self.folder / "queries"

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

    def sources(self, recipe: TinyRecipe) -> tuple[Path, Path]:
        """Return the VLM of the stage before and the dual encoder that knows the new questions."""
        super().sources(recipe)
        return self.folder / "evidence", self.folder / "queries"

    def open(self, start: Path, parts: Parts) -> Any:
        """Open the wrapped model of the stage before."""
        return vtc.from_pretrained(start)

    def old_format(self, rng: np.random.Generator) -> Format:
        """Draw the format of a batch of old questions, of up to 10,000 frames."""
        chance = rng.random()
        if chance < 0.35:
            return draw_hours(rng)
        return draw_long_format(rng) if chance < 0.7 else draw_format(rng, 0.6)
