"""What the frozen towers make of a bank of scenes, kept, so that no later step needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtc_recipes.synthetic import SyntheticVideo
from vtc_recipes.tiny.bank import FRAMES, Bank, place_in_bank, to_pixels
from vtc_recipes.tiny.dual_encoder import embed_frames
from vtc_recipes.tiny.pretext import encode_patches

_TOGETHER = 256


@dataclass(frozen=True)
class FeatureBank:
    """The features of a bank, frame by frame; frame f of scene s is row ``s * FRAMES + f``.

    Attributes:
        patches: ``[S * FRAMES, 36, 96]`` float16, what the VLM's projector takes.
        embeddings: ``[S * FRAMES, 64]`` float32 of length one, what the selector takes.
    """

    patches: Tensor
    embeddings: Tensor


@torch.no_grad()
def encode_bank(vlm: Any, dual_encoder: Any, bank: Bank) -> FeatureBank:
    """Run both towers over all frames of a bank, once."""
    patches, embeddings = [], []
    for frames in bank.frames.flatten(0, 1).split(_TOGETHER):
        pixels = to_pixels(frames)
        patches.append(encode_patches(vlm, pixels).half())
        embeddings.append(embed_frames(dual_encoder, pixels))
    return FeatureBank(torch.cat(patches), torch.cat(embeddings))


def rows_of(video: SyntheticVideo) -> Tensor:
    """``[N]`` int64: the row of a feature bank that stands for each frame of a video."""
    rows: list[int] = []
    for segment in video.segments:
        first = segment.scene.seed * FRAMES
        numbers: Sequence[int] = range(segment.start, segment.start + segment.length)
        rows.extend(first + place_in_bank(number) for number in numbers)
    return torch.tensor(rows)
