"""A bank of scenes: some frames of each, rendered once and labelled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtc_recipes.synthetic import COLOURS, SHAPES, TEXTURES, Scene
from vtc_recipes.tiny.models import GRID, MEAN, SIDE, STD

STEP = 6
"""The bank holds every sixth frame of a scene, because neighbours are near-duplicates."""
FRAMES = 8
"""Number of frames per scene in the bank; the last one represents all later frames."""


@dataclass(frozen=True)
class Bank:
    """The first scenes of a split.

    Attributes:
        scenes: The scenes, by seed.
        frames: ``[S, FRAMES, 48, 48, 3]`` uint8.
        shapes: ``[S, 4]`` int64, the index of the shape in each quarter, from 1; 0 for none.
        colours: ``[S, 4]`` int64, the index of its colour, from 1; 0 for none.
        textures: ``[S]`` int64, the index of the texture, from 0.
    """

    scenes: list[Scene]
    frames: Tensor
    shapes: Tensor
    colours: Tensor
    textures: Tensor

    def __len__(self) -> int:
        return len(self.scenes)


def build_bank(split: str, scenes: int) -> Bank:
    """Render the first ``scenes`` scenes of a split, in about a millisecond per scene."""
    drawn = [Scene(seed, split, SIDE) for seed in range(scenes)]
    frames = np.stack([scene.render(np.arange(FRAMES) * STEP) for scene in drawn])
    shapes, colours = torch.zeros(2, scenes, 4, dtype=torch.int64)
    for number, scene in enumerate(drawn):
        for thing in scene.objects:
            shapes[number, thing.quarter] = 1 + SHAPES.index(thing.shape)
            colours[number, thing.quarter] = 1 + list(COLOURS).index(thing.colour)
    textures = torch.tensor([TEXTURES.index(scene.backdrop.texture) for scene in drawn])
    return Bank(drawn, torch.from_numpy(frames), shapes, colours, textures)


def place_in_bank(frame: int) -> int:
    """Return the index of the bank's frame that represents a frame of a scene."""
    return min(round(frame / STEP), FRAMES - 1)


def to_pixels(frames: Tensor) -> Tensor:
    """Normalise frames as the processors do.

    Args:
        frames: ``[n, 48, 48, 3]`` uint8.

    Returns:
        ``[n, 3, 48, 48]`` float32.
    """
    pixels = frames.permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def patch_quarters() -> Tensor:
    """Return the quarter of the frame, 0 to 3, that contains each patch: ``[36]`` int64."""
    half = torch.arange(GRID) >= GRID // 2
    return (2 * half[:, None] + half[None, :].long()).flatten()
