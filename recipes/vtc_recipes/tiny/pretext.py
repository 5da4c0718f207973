"""Stage 1: the vision tower learns the content of each patch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtc_recipes.synthetic import COLOURS, SHAPES, TEXTURES
from vtc_recipes.tiny.bank import FRAMES, Bank, build_bank, patch_quarters, to_pixels
from vtc_recipes.tiny.config import StageSettings, TinyRecipe
from vtc_recipes.tiny.models import WIDTH, build_vlm
from vtc_recipes.tiny.stage import Stage

UNSEEN = 512
"""Number of validation scenes for the towers' metrics."""


class PatchReader(nn.Module):
    """A vision tower with a head that classifies the content of each patch's quarter.

    Args:
        vlm: The model whose tower is trained.
    """

    def __init__(self, vlm: Any) -> None:
        super().__init__()
        self.tower, self.layer = vlm.model.vision_tower, vlm.config.vision_feature_layer
        self.sizes = [1 + len(SHAPES), 1 + len(COLOURS), len(TEXTURES)]
        self.head = nn.Linear(WIDTH, sum(self.sizes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return logits of shape ``[n, 36, 9]``, colour ``[n, 36, 7]`` and texture ``[n, 36, 6]``.

        Args:
            pixels: ``[n, 3, 48, 48]`` float32.
        """
        patches = encode_patches(self.tower, self.layer, pixels)
        return torch.split(self.head(patches), self.sizes, dim=-1)


class Pretext(Stage):
    """Trains the tower on the shapes, colours and textures of patches."""

    name = "pretext"
    gated = ("shape", "colour", "texture")
    model: PatchReader

    def __init__(self, settings: StageSettings, recipe: TinyRecipe, folder: Path) -> None:
        super().__init__(settings, recipe, folder)
        self.vlm, self.processor = build_vlm(self.seed)
        self.model = PatchReader(self.vlm).to(self.device)
        self.seen, self.unseen = (
            build_bank("train", settings.scenes),
            build_bank("validation", UNSEEN),
        )

    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw frames ``[n, 3, 48, 48]`` and the labels of their patches, each ``[n, 36]``."""
        rng = np.random.default_rng((self.seed, number))
        scenes = torch.from_numpy(rng.integers(len(self.seen), size=self.settings.batch))
        numbers = torch.from_numpy(rng.integers(FRAMES, size=self.settings.batch))
        return read_batch(self.seen, scenes, numbers)

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum of the three cross-entropies."""
        outputs = self.model(batch["pixels"])
        losses = [
            F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            for logits, labels in zip(outputs, batch["labels"], strict=True)
        ]
        return torch.stack(losses).sum()

    def measure(self) -> dict[str, float]:
        """Return the accuracy over the objects of one frame of each unseen scene."""
        return probe(self.model, self.unseen, self.device)

    def save(self, folder: Path) -> None:
        """Save the VLM, with an untrained language model."""
        self.vlm.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def encode_patches(tower: Any, layer: int, pixels: Tensor) -> Tensor:
    """Return the inputs of the VLM's projector: ``[n, 3, 48, 48]`` to ``[n, 36, 96]``."""
    patches: Tensor = tower(pixels, output_hidden_states=True).hidden_states[layer]
    return patches


def read_batch(bank: Bank, scenes: Tensor, numbers: Tensor) -> dict[str, Any]:
    """Return frames of a bank, given by scene and index, each ``[n]`` int64, with their labels."""
    quarters = patch_quarters()
    textures = bank.textures[scenes, None].expand(-1, len(quarters))
    return {
        "pixels": to_pixels(bank.frames[scenes, numbers]),
        "labels": (bank.shapes[scenes][:, quarters], bank.colours[scenes][:, quarters], textures),
    }


@torch.no_grad()
def probe(reader: PatchReader, bank: Bank, device: torch.device) -> dict[str, float]:
    """Return the accuracy over the objects of one frame of each scene, by quarter."""
    numbers = torch.arange(len(bank)) % FRAMES
    pixels = to_pixels(bank.frames[torch.arange(len(bank)), numbers])
    parts = [reader(part.to(device)) for part in torch.split(pixels, 128)]
    logits = [torch.cat(kind).cpu() for kind in zip(*parts, strict=True)]
    quarters = F.one_hot(patch_quarters(), 4).float() / (len(patch_quarters()) / 4)
    shapes, colours = (
        torch.einsum("npc,pq->nqc", guess.log_softmax(-1), quarters)[..., 1:].argmax(-1) + 1
        for guess in logits[:2]
    )
    has_object = bank.shapes > 0
    textures = logits[2].log_softmax(-1).mean(1).argmax(-1)
    return {
        "shape": (shapes == bank.shapes)[has_object].float().mean().item(),
        "colour": (colours == bank.colours)[has_object].float().mean().item(),
        "texture": (textures == bank.textures).float().mean().item(),
    }
