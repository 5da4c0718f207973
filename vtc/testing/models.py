"""Tiny models of real Hugging Face classes, built offline in a second or two."""

from __future__ import annotations

from typing import Any

import torch

from vtc.plugins import registry


def tiny(family: str = "llava_onevision", *, seed: int = 0) -> tuple[Any, Any]:
    """Build a tiny model of a family, with random weights that react to errors.

    The model is the one that ``vtc.open_model("tiny:FAMILY")`` wraps.

    Args:
        family: The ``model_type`` of the configuration.
        seed: The seed of the weights.

    Returns:
        The model, in evaluation mode, float32, on the CPU; and its processor.

    Raises:
        ValueError: There is no tiny model of this family, or no plug-in registers ``tiny``.
    """
    build: Any = registry.model_function("tiny")
    if build is None:
        raise ValueError("no plug-in registers 'tiny'; is vtc_adapters disabled?")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = build(family)
    return model, processor


def redraw(model: torch.nn.Module, std: float = 0.25) -> None:
    """Redraw the weights of all linear layers, so that outputs react to their inputs.

    With the usual initialisation a tiny model hardly reacts to wrong tokens or positions, so tests
    with it prove nothing.

    Args:
        std: The standard deviation of the weights.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=std)
