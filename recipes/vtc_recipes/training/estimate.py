"""What a recipe would train, and the memory that takes, by formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vtc.wrapped.access import toolkit_of
from vtc_recipes.training.components import PARTS, part_of
from vtc_recipes.training.config import Recipe


@dataclass
class PartSize:
    """One part of a model in numbers.

    Attributes:
        part: Its name.
        how: ``full``, ``lora`` or ``frozen``.
        learning_rate: None where it is frozen.
        parameters, trainable: Counts; with LoRA the matrices are counted in both.
        weights, gradients, optimiser: Bytes: of the parameters; of the trainable ones; and twice
            that, for AdamW's two averages.
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
        """Count one more parameter."""
        count, held = parameter.numel(), parameter.numel() * parameter.element_size()
        self.parameters += count
        self.weights += held
        if parameter.requires_grad:
            self.trainable += count
            self.gradients += held
            self.optimiser += 2 * held

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimiser


def estimate(model: Any, recipe: Recipe) -> list[PartSize]:
    """The sizes of all parts of a model that `set_training` prepared.

    Activations come on top, and so do the frame encoder and the caches of the libraries. ZeRO-3
    and FSDP2 divide these numbers by the number of processes.
    """
    toolkit = toolkit_of(model)
    sizes = {
        name: PartSize(name, part.how, None if part.how == "frozen" else part.learning_rate)
        for name, part in recipe.train.parts()
    }
    for name, parameter in model.named_parameters():
        sizes[part_of(name, toolkit)].add(parameter)
    return [sizes[part] for part in PARTS]
