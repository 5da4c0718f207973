"""Stage 2: the dual encoder learns which frames match a text, and which show the same scene."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtc_recipes.synthetic import COLOURS, SHAPES
from vtc_recipes.tiny.bank import FRAMES, Bank, build_bank, to_pixels
from vtc_recipes.tiny.config import StageSettings, TinyRecipe
from vtc_recipes.tiny.models import CONTEXT, build_dual_encoder, copy_tower
from vtc_recipes.tiny.pretext import UNSEEN
from vtc_recipes.tiny.stage import Stage

SAME_SCENE = 0.85
"""Threshold of ``dks``, which separates frame pairs of one scene from pairs of two scenes."""
_TEMPERATURE = 0.1
_COLOUR_MATCH = 0.5
"""Match score of a text and frames that show its colour but not its shape."""
_TEXTS = {
    "What colour is the {shape}?": 0.1,
    "What colour is the first {shape}?": 0.1,
    "What colour is the last {shape}?": 0.1,
    "Which shape is {colour} in the scene after the {shape}?": 0.5,
    "What is behind the {shape}?": 0.1,
    "{shape}": 0.1,
}
"""Texts and their frequencies in training; the one that names two things is the most frequent."""


def draw_texts(rng: np.random.Generator, count: int) -> tuple[list[str], Tensor, Tensor]:
    """Draw texts, with the index of each text's shape and colour (0: none), ``[count]`` int64."""
    templates = rng.choice(tuple(_TEXTS), size=count, p=tuple(_TEXTS.values())).tolist()
    shapes = rng.integers(len(SHAPES), size=count).tolist()
    colours = rng.integers(len(COLOURS), size=count).tolist()
    texts = [
        text.format(shape=SHAPES[shape], colour=tuple(COLOURS)[colour])
        for text, shape, colour in zip(templates, shapes, colours, strict=True)
    ]
    numbers = [
        1 + colour if "{colour}" in text else 0
        for text, colour in zip(templates, colours, strict=True)
    ]
    return texts, 1 + torch.tensor(shapes), torch.tensor(numbers)


def embed_frames(model: Any, pixels: Tensor) -> Tensor:
    """Embed frames: ``[n, 3, 48, 48]`` float32 to ``[n, 64]`` of length one."""
    features = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return F.normalize(features, dim=-1)


def embed_patches(model: Any, pixels: Tensor) -> Tensor:
    """Return the patches behind the embeddings: ``[n, 3, 48, 48]`` float32 to ``[n, 36, C]``."""
    features = model.get_image_features(pixel_values=pixels, return_dict=True)
    patches: Tensor = features.last_hidden_state[:, 1:]
    return patches


def embed_texts(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Embed texts: ``[n, 64]`` float32 of length one."""
    inputs = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt")
    inputs = inputs.to(model.device)
    features = model.get_text_features(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], return_dict=True
    ).pooler_output
    return F.normalize(features, dim=-1)


def matching_loss(texts: Tensor, frames: Tensor, matches: Tensor, scale: Tensor) -> Tensor:
    """Return the mean cross-entropy of texts with their frames and of frames with their texts.

    Args:
        texts: ``[t, d]`` of length one.
        frames: ``[n, d]`` of length one.
        matches: ``[t, n]`` float32, 0 to 1; texts and frames without any match are ignored.
        scale: Factor of the cosines, a scalar.
    """
    logits = scale * texts @ frames.T
    return (_many_positives(logits, matches) + _many_positives(logits.T, matches.T)) / 2


def scene_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return the cross-entropy of two frames of each scene, ``[n, d]`` of length one each."""
    logits = first @ second.T / _TEMPERATURE
    labels = torch.arange(len(first), device=first.device)
    contrast = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    # Frames of one scene must also pass the selector's threshold.
    return contrast + 4 * (1 - (first * second).sum(-1)).mean()


@torch.no_grad()
def retrieval(model: Any, tokenizer: Any, bank: Bank) -> dict[str, float]:
    """Measure retrieval on a bank.

    Returns:
        ``found``: the fraction of scenes with a shape that are more relevant to a question about it
        than 98 % of the scenes without it (a rank in the first 25 of 1,250 scenes);
        ``same_scene``: the fraction of frame pairs of one scene above the threshold of ``dks``;
        ``other_scene``: the fraction of frame pairs of two scenes below it.
    """
    frames, later = (
        torch.cat(
            [
                embed_frames(model, to_pixels(part).to(model.device)).cpu()
                for part in torch.split(bank.frames[:, number], 128)
            ]
        )
        for number in (2, 5)
    )
    questions = [f"What colour is the {shape}?" for shape in SHAPES]
    cosines = embed_texts(model, tokenizer, questions).cpu() @ frames.T
    hits = []
    for number, row in enumerate(cosines, 1):
        matches = (bank.shapes == number).any(-1)
        hits.append(row[matches] > row[~matches].quantile(0.98))
    contrast = (frames @ frames.T < SAME_SCENE).float().mean() / (1 - 1 / len(frames))
    return {
        "found": torch.cat(hits).float().mean().item(),
        "same_scene": ((frames * later).sum(-1) > SAME_SCENE).float().mean().item(),
        "other_scene": contrast.item(),
    }


class DualEncoder(Stage):
    """Trains a CLIP to match texts with frames, and frames of one scene with each other."""

    name = "dual_encoder"
    needs = ("pretext",)
    gated = ("found", "same_scene", "other_scene")
    model: Any

    def __init__(self, settings: StageSettings, recipe: TinyRecipe, folder: Path) -> None:
        from transformers import LlavaOnevisionForConditionalGeneration

        super().__init__(settings, recipe, folder)
        self.model, *self.processors = build_dual_encoder(self.seed)
        vlm = LlavaOnevisionForConditionalGeneration.from_pretrained(folder / "pretext")
        copy_tower(vlm, self.model)
        self.model.to(self.device)
        self.seen = build_bank("train", settings.scenes)
        self.unseen = build_bank("validation", UNSEEN)

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw texts, two frames each of some scenes, and the match scores of texts and scenes."""
        rng = np.random.default_rng((self.seed, number))
        count = self.settings.batch // 2
        scenes = torch.from_numpy(rng.choice(len(self.seen), count, replace=False))
        numbers = torch.from_numpy(rng.integers(FRAMES, size=(2, count)))
        texts, shapes, colours = draw_texts(rng, count)
        of_shape = self.seen.shapes[scenes][None] == shapes[:, None, None]
        of_colour = self.seen.colours[scenes][None] == colours[:, None, None]
        named = colours[:, None] > 0
        return {
            "pixels": to_pixels(self.seen.frames[scenes, numbers].flatten(0, 1)),
            "texts": texts,
            "matches": torch.maximum(
                of_shape.any(-1).float(), _COLOUR_MATCH * (of_colour.any(-1) & named)
            ),
        }

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum of the matching loss and the scene loss."""
        first, second = embed_frames(self.model, batch["pixels"]).chunk(2)
        texts = embed_texts(self.model, self.processors[1], batch["texts"])
        scale = self.model.logit_scale.exp().clamp(max=100)
        return matching_loss(texts, first, batch["matches"], scale) + scene_loss(first, second)

    def measure(self) -> dict[str, float]:
        """Return the retrieval metrics on unseen scenes."""
        return retrieval(self.model, self.processors[1], self.unseen)

    def save(self, folder: Path) -> None:
        """Write a CLIP folder."""
        for part in (self.model, *self.processors):
            part.save_pretrained(folder)


def _many_positives(logits: Tensor, matches: Tensor) -> Tensor:
    """Return the cross-entropy with normalised matches, over the rows that have any."""
    rows = matches.sum(-1) > 0
    share = matches[rows] / matches[rows].sum(-1, keepdim=True)
    return -(share * logits[rows].log_softmax(-1)).sum(-1).mean()
