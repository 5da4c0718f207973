"""Compute the sizes of the modules that the stages of a recipe train."""

from __future__ import annotations

from torch import nn

from vtc.encoders.base import EncoderOptions
from vtc.encoders.hf import HFClipEncoder
from vtc_recipes.tiny.config import TinyRecipe
from vtc_recipes.tiny.models import build_dual_encoder, build_vlm
from vtc_recipes.tiny.pretext import PatchReader
from vtc_recipes.tiny.vlm import Reader, wrap_new
from vtc_recipes.training.estimate import PartSize


def stage_sizes(recipe: TinyRecipe) -> list[PartSize]:
    """Return the parameters and memory of each stage; see `vtc_recipes.training.estimate`."""
    sizes = []
    for settings in recipe.stages:
        size = PartSize(settings.name, "full", settings.learning_rate)
        for weight in _trained(recipe, settings.name).parameters():
            size.add(weight)
        sizes.append(size)
    return sizes


def _trained(recipe: TinyRecipe, stage: str) -> nn.Module:
    vlm, processor = build_vlm()
    if stage == "pretext":
        return PatchReader(vlm)
    clip, *rest = build_dual_encoder()
    if stage == "dual_encoder":
        return clip  # type: ignore[no-any-return]
    encoder = HFClipEncoder(clip, *rest, name="dual_encoder", options=EncoderOptions())
    return Reader(wrap_new(vlm, processor, recipe.vtc, encoder))
