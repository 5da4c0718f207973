"""The stage ``queries``: the dual encoder's text side learns the questions about stories.

Its vision side is frozen, so selectors see frames as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vtc_recipes.synthetic import COLOURS, SHAPES
from vtc_recipes.synthetic.stories import ORDINALS, STORIES, StoryQuestion
from vtc_recipes.tiny.bank import Bank, build_bank
from vtc_recipes.tiny.config import StageSettings, TinyRecipe
from vtc_recipes.tiny.dual_encoder import draw_texts, embed_texts, matching_loss
from vtc_recipes.tiny.features import embeddings_of
from vtc_recipes.tiny.models import word_tokenizer
from vtc_recipes.tiny.pretext import UNSEEN
from vtc_recipes.tiny.stage import Stage
from vtc_recipes.tiny.start import check_vocabulary, grow, start_folder


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
        start = start_folder(recipe, "dual_encoder")
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
