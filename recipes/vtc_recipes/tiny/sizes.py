"""What the stages of a recipe would train."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vtc_recipes.estimate import PartSize
from vtc_recipes.tiny.config import TinyRecipe
from vtc_recipes.tiny.models import build_dual_encoder, build_vlm
from vtc_recipes.tiny.pretext import PatchReader

_MODELS: dict[str, Callable[[], nn.Module]] = {
    "pretext": lambda: PatchReader(build_vlm()[0]),
    "dual_encoder": lambda: build_dual_encoder()[0],
}


def stage_sizes(recipe: TinyRecipe) -> list[PartSize]:
    """The parameters and the memory of what each stage trains; see `vtc_recipes.estimate`."""
    sizes = []
    for settings in recipe.stages:
        size = PartSize(settings.name, "full", settings.learning_rate)
        for weight in _MODELS[settings.name]().parameters():
            size.add(weight)
        sizes.append(size)
    return sizes
