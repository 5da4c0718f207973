"""LLaVA-OneVision, and LLaVA-Video checkpoints converted to its class."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from math import ceil
from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.video_span import SliceFeatures
from vtc_adapters._llava import LlavaAdapter


class LlavaOnevisionAdapter(LlavaAdapter):
    """LLaVA-OneVision: 729 SigLIP patches a frame, pooled to 196 tokens where they are kept."""

    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        vision = model.config.vision_config
        side = ceil(vision.image_size // vision.patch_size / 2)
        return side, side

    def tail_length(self) -> int:
        return 1  # image_newline

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        inner, config = model.model, model.config
        layers = config.vision_feature_layer
        # The layers' own numbers: newer transformers then keep only those states.
        states = inner.vision_tower(
            pixels["pixel_values_videos"], output_hidden_states=layers or True, return_dict=True
        ).hidden_states
        patches = (
            states[layers]
            if isinstance(layers, int)
            else torch.cat([states[layer] for layer in layers], dim=-1)
        )
        if config.vision_feature_select_strategy == "default":
            patches = patches[:, 1:]
        dense = inner.multi_modal_projector(patches)
        return SliceFeatures(tokens=inner.apply_pooling(dense), dense=dense)

    def tail(self, model: Any) -> Tensor:
        with _on_device(model.model):
            newline: Tensor = model.model.image_newline
            return newline[None].clone()


def _on_device(module: Any) -> Any:
    """Bring a module's own parameters from where accelerate's offloading keeps them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)
