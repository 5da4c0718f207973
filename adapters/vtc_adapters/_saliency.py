"""Where the vision tower of a family computes the saliency of patches."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vtc.interfaces.video_adapter import VideoAdapter


class SquareTower(VideoAdapter):
    """Families with one vision tower of attention layers, over square pictures."""

    def saliency_module(self, model: Any) -> str:
        """Return the attention of the last layer whose output the projector takes."""
        layer = getattr(model.config, "vision_feature_layer", -1)
        return attention_module(model, self.vision_towers[0], layer)

    def has_class_token(self, model: Any) -> bool:
        """Return whether the tower has a class token."""
        tower = model.get_submodule(self.vision_towers[0])
        names = {name.rpartition(".")[2] for name, _ in tower.named_parameters()}
        return bool(names & {"class_embedding", "cls_token"})

    def token_saliency(self, model: Any, pixels: Mapping[str, Tensor], received: Tensor) -> Tensor:
        """Return the mean over the patches of each token of `slice_grid`."""
        patches = received[:, 1:] if self.has_class_token(model) else received
        height, width = self.slice_grid(model, pixels)
        if height * width == received.shape[1]:  # the class token is one of the tokens
            return received
        if height * width == patches.shape[1]:
            return patches
        return pooled(patches, (height, width))


def attention_module(model: Any, tower: str, layer: int | list[int] = -1) -> str:
    """Return the name of the attention module of a layer of a vision tower.

    Args:
        layer: The index of the layer's output among the hidden states, of which the first is the
            input of the first layer; the last of a list.

    Raises:
        ValueError: The tower has no such layer, or no attention in it.
    """
    index = layer if isinstance(layer, int) else layer[-1]
    for name, stack in model.get_submodule(tower).named_modules():
        if not isinstance(stack, nn.ModuleList) or not len(stack):
            continue
        for child, _ in stack[0].named_children():
            if "attn" in child or "attention" in child:
                number = len(stack) + index if index < 0 else index - 1
                if 0 <= number < len(stack):
                    return f"{tower}.{name}.{number}.{child}"
    raise ValueError(
        f"the saliency of the vision tower cannot be read: {tower} has no layer {index} with query "
        "and key; choose a merger without saliency"
    )


def pooled(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the means ``[n, M]`` of square pictures ``[n, P]`` over the cells of a grid."""
    picture = rearrange(patches, "n (h w) -> n 1 h w", h=isqrt(patches.shape[1]))
    return F.adaptive_avg_pool2d(picture, grid).flatten(1)
