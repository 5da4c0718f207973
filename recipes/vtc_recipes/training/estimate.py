"""Estimate the parameters that a recipe trains, and their memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vtc.wrapped.access import toolkit_of
from vtc_recipes.training.components import PARTS, part_of
from vtc_recipes.training.config import Recipe


@dataclass
class PartSize:
    """The size of one part of a model.

    Attributes:
        part: The name of the part.
        how: ``full``, ``lora`` or ``frozen``.
        learning_rate: The learning rate; None if the part is frozen.
        parameters, trainable: Numbers of parameters; LoRA's matrices are in both.
        weights, gradients, optimiser: Bytes of the parameters, of the gradients of the trainable
            parameters, and of AdamW's two moving averages of them.
    """

    part: str
    how: str
    learning_rate: float | None
    parameters: int = 0
    trainable: int = 0
    weights: int = 0
    gradients: int = 0
    optimiser: int = 0

    def add(self, parameter: nn.Parameter) -> None:
        """Count a parameter."""
        count, size = parameter.numel(), parameter.numel() * parameter.element_size()
        self.parameters += count
        self.weights += size
        if parameter.requires_grad:
            self.trainable += count
            self.gradients += size
            self.optimiser += 2 * size

    @property
    def bytes(self) -> int:
        """Weights, gradients and optimiser together."""
        return self.weights + self.gradients + self.optimiser


def estimate(model: Any, recipe: Recipe) -> list[PartSize]:
    """Return the sizes of all parts of a model that `set_training` prepared.

    Activations, the frame encoder and the caches of the libraries are not included. ZeRO-3 and
    FSDP2 divide these numbers by the number of processes.
    """
    toolkit = toolkit_of(model)
    sizes = {
        name: PartSize(name, part.how, None if part.how == "frozen" else part.learning_rate)
        for name, part in recipe.train.parts()
    }
    for name, parameter in model.named_parameters():
        sizes[part_of(name, toolkit)].add(parameter)
    return [sizes[part] for part in PARTS]
