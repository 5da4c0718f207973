"""Tiny models of real Hugging Face classes, built offline in a second or two.

Their linear weights are redrawn at a standard deviation of 0.25: at the usual initialisation a
tiny model hardly reacts to wrong tokens or positions, and a test with it proves nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from vtc.testing._still_models import STILL_MODELS
from vtc.testing._video_models import VIDEO_MODELS

BUILDERS = {**VIDEO_MODELS, **STILL_MODELS}


def tiny(family: str = "llava_onevision", *, seed: int = 0) -> tuple[Any, Any]:
    """Build a tiny model of a family, with random weights that react to errors.

    Args:
        family: The ``model_type`` of the configuration.
        seed: Of the weights.

    Returns:
        The model, in evaluation mode, float32, on the CPU; and its processor.

    Raises:
        ValueError: There is no tiny model of this family.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_tiny(family)


def build_tiny(family: str) -> tuple[Any, Any]:
    """The same, drawn from the random numbers of the caller."""
    if family not in BUILDERS:
        raise ValueError(f"no tiny model of {family!r}; there are: {', '.join(sorted(BUILDERS))}")
    model, processor = BUILDERS[family]()
    redraw(model)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.eval(), processor


def redraw(model: torch.nn.Module, std: float = 0.25) -> None:
    """Redraw the weights of all linear layers, so that outputs react to their inputs."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=std)
