"""What the frozen towers make of a bank of scenes, kept, so that no later step needs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vtc_recipes.synthetic import SyntheticVideo
from vtc_recipes.tiny.bank import FRAMES, Bank, place_in_bank, to_pixels
from vtc_recipes.tiny.dual_encoder import embed_frames
from vtc_recipes.tiny.pretext import encode_patches

_TOGETHER = 256


@torch.no_grad()
def patches_of(vlm: Any, bank: Bank) -> Tensor:
    """``[S * FRAMES, 36, 96]`` float16, what the VLM's projector takes.

    Frame f of scene s is row ``s * FRAMES + f``, as in all features of a bank.
    """
    parts = torch.split(bank.frames.flatten(0, 1), _TOGETHER)
    return torch.cat([encode_patches(vlm, to_pixels(part)).half() for part in parts])


@torch.no_grad()
def embeddings_of(dual_encoder: Any, bank: Bank) -> Tensor:
    """``[S * FRAMES, 64]`` float32 of length one, what the selector takes."""
    parts = torch.split(bank.frames.flatten(0, 1), _TOGETHER)
    return torch.cat([embed_frames(dual_encoder, to_pixels(part)) for part in parts])


def kept(file: Path, compute: Callable[[], Tensor]) -> Tensor:
    """Features from a file, or computed and written to it."""
    if not file.is_file():
        partial = file.with_suffix(".partial")
        save_file({"features": compute()}, partial)
        partial.rename(file)
    return load_file(file)["features"]


def rows_of(video: SyntheticVideo) -> Tensor:
    """``[N]`` int64: the row of a bank's features that stands for each frame of a video."""
    rows: list[int] = []
    for segment in video.segments:
        first = segment.scene.seed * FRAMES
        numbers = range(segment.start, segment.start + segment.length)
        rows.extend(first + place_in_bank(number) for number in numbers)
    return torch.tensor(rows)
