"""Build the tiny model of a family, with weights large enough to expose errors."""

from __future__ import annotations

from typing import Any

import torch

from vtc_adapters.tiny.still_models import STILL_MODELS
from vtc_adapters.tiny.video_models import VIDEO_MODELS

BUILDERS = {**VIDEO_MODELS, **STILL_MODELS}


def build(family: str) -> tuple[Any, Any]:
    """Build a tiny model with torch's current random state.

    Linear weights get a standard deviation of 0.25: with the usual initialisation a tiny model
    hardly reacts to wrong tokens or positions, so tests with it could not fail.

    Args:
        family: The ``model_type`` of the configuration.

    Returns:
        The model, in evaluation mode, float32, on the CPU; and its processor.

    Raises:
        ValueError: There is no tiny model of this family.
    """
    if family not in BUILDERS:
        raise ValueError(f"no tiny model of {family!r}; known: {', '.join(sorted(BUILDERS))}")
    model, processor = BUILDERS[family]()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.25)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.eval(), processor
