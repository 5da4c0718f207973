"""The models that the stages about stories start from, and their vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vtc_recipes.tiny.config import TinyRecipe
from vtc_recipes.tiny.trained import WEIGHTS

LANGUAGE_MODELS = ("vlm", "hour_answers", "long_answers")
"""Names of language models in a folder to start from: the shipped one, or those of a run."""


def start_folder(recipe: TinyRecipe, *names: str) -> Path:
    """Return the first of some subfolders that the start of a recipe has.

    Raises:
        ValueError: It has none of them.
    """
    folder = WEIGHTS if recipe.start == "shipped" else Path(recipe.start)
    for name in names:
        if (folder / name / "config.json").is_file():
            return folder / name
    raise ValueError(
        f"start {recipe.start!r} has no model in {' or '.join(names)}; train tiny_vlm there first, "
        "or set start=shipped"
    )


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
