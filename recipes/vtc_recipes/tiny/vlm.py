"""Stages 3 to 5: the language model learns to describe videos, then to answer questions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vtc
from vtc.wrapped.access import toolkit_of
from vtc_recipes.tiny.asking import KINDS
from vtc_recipes.tiny.bank import build_bank
from vtc_recipes.tiny.config import Parts, StageSettings, TinyRecipe
from vtc_recipes.tiny.curriculum import (
    HOURS,
    draw_caption_format,
    draw_format,
    draw_hours,
    draw_kinds,
    draw_long_format,
)
from vtc_recipes.tiny.features import Features, embeddings_of, encoder_patches_of, patches_of
from vtc_recipes.tiny.sequences import Dialogue, forward
from vtc_recipes.tiny.stage import Stage
from vtc_recipes.tiny.world import Format, World

UNSEEN = 600
"""Number of validation scenes for metrics."""
EXAMINED = 400
"""Number of videos for metrics."""
_ONE_TURN, _MANY_TURNS = 12, 60
"""Approximate number of tokens of a video's questions, for the batch size."""


class Reader(nn.Module):
    """The trained modules of a wrapped VLM: all except its vision tower."""

    def __init__(self, vlm: Any) -> None:
        super().__init__()
        vlm.model.vision_tower.requires_grad_(False)
        self.projector, self.newline = vlm.model.multi_modal_projector, vlm.model.image_newline
        self.language_model = vlm.model.language_model
        self.toolkit = toolkit_of(vlm)


class LanguageStage(Stage):
    """Trains the projector, the language model and the toolkit's modules."""

    takes_parts = True
    model: Reader

    def __init__(self, settings: StageSettings, recipe: TinyRecipe, folder: Path) -> None:
        from transformers import AutoProcessor, AutoTokenizer, CLIPModel

        super().__init__(settings, recipe, folder)
        start, encoder = self.sources(recipe)
        self.processor = AutoProcessor.from_pretrained(start)
        self.vlm = self.open(start, recipe.vtc).to(self.device)
        self.model = Reader(self.vlm)
        clip = CLIPModel.from_pretrained(encoder).to(self.device)
        tokenizer = AutoTokenizer.from_pretrained(encoder)

        def world(split: str, scenes: int) -> World:
            bank = build_bank(split, scenes)
            kept = patches_of(self.vlm, bank)
            fast = self.model.toolkit.connector_kind == "encoder_patches"
            features = Features(kept, encoder_patches_of(clip, bank) if fast else kept)
            return World(split, scenes, features, embeddings_of(clip, bank), clip, tokenizer)

        self.seen, self.unseen = world("train", settings.scenes), world("validation", UNSEEN)

    def sources(self, recipe: TinyRecipe) -> tuple[Path, Path]:
        """Return the folders of the VLM to start from and of the dual encoder."""
        return self.folder / self.needs[-1], self.folder / "dual_encoder"

    def open(self, start: Path, parts: Parts) -> Any:
        """Open the wrapped VLM with the weights of the previous stage."""
        return vtc.from_pretrained(start)

    def matrices(self) -> list[nn.Parameter]:
        """Return the matrices of the projectors and of the language model's layers."""
        connector = self.model.toolkit.connector
        hidden = [self.model.projector, self.model.language_model.layers]
        hidden += [] if connector is None else [connector]
        return [weight for part in hidden for weight in part.parameters() if weight.ndim == 2]

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the cross-entropy over the answers' words and end marks."""
        logits, labels = self._forward(self.seen, batch["dialogues"])
        return F.cross_entropy(logits, labels)

    def captions(self, rng: np.random.Generator, form: Format, words: int) -> Mapping[str, Any]:
        """Draw a batch of videos to describe; a scene counts for ``words`` tokens of text."""
        count = max(1, self.settings.batch // (tokens_of(form) + words * form.scenes))
        return {"dialogues": [self.seen.caption(rng, form) for _ in range(count)]}

    def save(self, folder: Path) -> None:
        """Write a folder for ``vtc.from_pretrained``."""
        vtc.save_pretrained(self.vlm, folder)

    def examine(self, form: Format, count: int) -> dict[str, float]:
        """Return the accuracy on validation videos, under ``FRAMES`` and ``FRAMES, KIND``."""
        rng = np.random.default_rng(0)
        right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
        end = self.processor.tokenizer.eos_token_id
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            dialogue = self.unseen.questions(rng, form, kind)
            logits, labels = self._forward(self.unseen, [dialogue])
            words = labels != end
            right[kind].append(bool((logits.argmax(-1) == labels)[words].all()))
        by_kind = {f"{form.frames}, {kind}": sum(row) / len(row) for kind, row in right.items()}
        return {f"{form.frames}": sum(map(sum, right.values())) / count, **by_kind}

    def _forward(self, world: World, dialogues: list[Dialogue]) -> tuple[Tensor, Tensor]:
        # bfloat16 takes half the time at equal quality with hardware support, but is 40 times
        # slower than float32 on other CPUs.
        fast = self.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            tokenizer = self.processor.tokenizer
            logits, labels, _ = forward(self.vlm, tokenizer, world.features, dialogues)
        return logits.float(), labels


def wrap_new(vlm: Any, processor: Any, parts: Parts, encoder: Any) -> Any:
    """Wrap a stock model with the untrained parts of a recipe."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "merger .* has untrained parameters")
        vtc.wrap(vlm, parts.selector, parts.merger, processor=processor, encoder=encoder)
    toolkit_of(vlm).add_connector(parts.connector)
    return vlm


class Captions(LanguageStage):
    """Trains on descriptions of short videos with a keyframe in each scene."""

    name = "captions"
    needs = ("dual_encoder", "pretext")
    gated = ("words",)

    def open(self, start: Path, parts: Parts) -> Any:
        """Open a stock model and wrap it."""
        from transformers import LlavaOnevisionForConditionalGeneration

        vlm = LlavaOnevisionForConditionalGeneration.from_pretrained(start)
        return wrap_new(vlm, self.processor, parts, str(self.folder / "dual_encoder"))

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw videos of one or two scenes at first, and of up to six later."""
        rng = np.random.default_rng((self.seed, number))
        form = draw_caption_format(rng, 1, 2 if number < 0.3 * self.settings.steps else 6)
        return self.captions(rng, form, words=6)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the fraction of right words in descriptions of single scenes."""
        rng = np.random.default_rng(0)
        form = Format(8, 1, 1)
        dialogues = [self.unseen.caption(rng, form) for _ in range(EXAMINED)]
        logits, labels = self._forward(self.unseen, dialogues)
        return {"words": (logits.argmax(-1) == labels).float().mean().item()}


class Answers(LanguageStage):
    """Trains on answers to many questions about each video."""

    name = "answers"
    needs = ("dual_encoder", "captions")
    gated: ClassVar[tuple[str, ...]] = ("64", "1024")

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw videos of one format with questions or, in some early batches, descriptions."""
        rng = np.random.default_rng((self.seed, number))
        done = number / self.settings.steps
        if done < 0.4 and rng.random() < 0.25:
            return self.captions(rng, draw_caption_format(rng, 2, 8), words=8)
        return self.question_batch(rng, draw_format(rng, done))

    def question_batch(self, rng: np.random.Generator, form: Format) -> Mapping[str, Any]:
        """Draw a batch of videos of a format with their questions."""
        text = _ONE_TURN if form.alone else _MANY_TURNS
        count = max(1, self.settings.batch // (tokens_of(form) + text))
        kinds = draw_kinds(rng, form, count)
        return {"dialogues": [self.seen.questions(rng, form, kind) for kind in kinds]}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the accuracy on 64 and 1,024 frames, in total and by kind."""
        measured: dict[str, float] = {}
        short, long = Format(64, 8, 8, alone=True), Format(1024, 128, 32, alone=True)
        for form, count in ((short, EXAMINED), (long, EXAMINED // 4)):
            measured |= self.examine(form, count)
        return measured


class LongAnswers(Answers):
    """Trains on answers about long videos with few relevant scenes."""

    name = "long_answers"
    needs = ("dual_encoder", "answers")

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw videos of one format, up to 2,048 frames."""
        rng = np.random.default_rng((self.seed, number))
        return self.question_batch(rng, draw_long_format(rng))


class HourAnswers(Answers):
    """Trains on answers about videos of hours, thinned to a few hundred frames.

    Keyframes are selected from all frames, so they show the scenes nearest to the question of more
    than a thousand.
    """

    name = "hour_answers"
    needs = ("dual_encoder", "long_answers")
    gated = (*Answers.gated, "10000")

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw videos of one format, half of them of hours."""
        rng = np.random.default_rng((self.seed, number))
        hours = rng.random() < 0.5
        return self.question_batch(rng, draw_hours(rng) if hours else draw_long_format(rng))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Add the accuracy on thinned videos of 10,000 frames, in total and by kind."""
        return {**super().measure(), **self.examine(HOURS, EXAMINED // 4)}


def tokens_of(form: Format) -> int:
    """Return the number of visual tokens of a video of a format."""
    if form.budget is not None:
        return int(form.budget.max_tokens)
    frames = form.kept or form.frames
    return frames + 8 * min(form.keyframes, frames)
