"""Features of a bank of scenes, computed once with the frozen towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtc_recipes.synthetic import SyntheticVideo
from vtc_recipes.tiny.bank import FRAMES, Bank, place_in_bank, to_pixels
from vtc_recipes.tiny.dual_encoder import embed_frames, embed_patches
from vtc_recipes.tiny.pretext import encode_patches

_BATCH = 256


@dataclass(frozen=True)
class Features:
    """The patches of all frames of a bank.

    Attributes:
        kept: ``[rows, 36, 96]`` float16, patches of the VLM's tower, for keyframes.
        merged: ``[rows, 36, C]`` float16, for merged frames: the same patches, or those of the dual
            encoder (the fast path).
    """

    kept: Tensor
    merged: Tensor


@torch.no_grad()
def patches_of(vlm: Any, bank: Bank) -> Tensor:
    """Return the inputs of the VLM's projector, ``[S * FRAMES, 36, 96]`` float16.

    Row ``s * FRAMES + f`` is frame f of scene s, as in all features of a bank.
    """
    tower, layer = vlm.model.vision_tower, vlm.config.vision_feature_layer
    parts = (to_pixels(part).to(vlm.device) for part in _parts(bank))
    return torch.cat([encode_patches(tower, layer, part).half().cpu() for part in parts])


@torch.no_grad()
def embeddings_of(dual_encoder: Any, bank: Bank) -> Tensor:
    """Return the inputs of the selector, ``[S * FRAMES, 64]`` float32 of length one."""
    parts = (to_pixels(part).to(dual_encoder.device) for part in _parts(bank))
    return torch.cat([embed_frames(dual_encoder, part).cpu() for part in parts])


@torch.no_grad()
def encoder_patches_of(dual_encoder: Any, bank: Bank) -> Tensor:
    """Return the patches that the fast path merges, ``[S * FRAMES, 36, C]`` float16."""
    parts = (to_pixels(part).to(dual_encoder.device) for part in _parts(bank))
    return torch.cat([embed_patches(dual_encoder, part).half().cpu() for part in parts])


def _parts(bank: Bank) -> tuple[Tensor, ...]:
    return torch.split(bank.frames.flatten(0, 1), _BATCH)


def rows_of(video: SyntheticVideo) -> Tensor:
    """Return the row of a bank's features for each frame of a video, ``[N]`` int64."""
    rows: list[int] = []
    for segment in video.segments:
        first = segment.scene.seed * FRAMES
        numbers = range(segment.start, segment.start + segment.length)
        rows.extend(first + place_in_bank(number) for number in numbers)
    return torch.tensor(rows)
