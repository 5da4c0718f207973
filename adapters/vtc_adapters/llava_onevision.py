"""LLaVA-OneVision, and LLaVA-Video checkpoints converted to the same class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers.utils import output_capturing

from vtc.interfaces.video_span import SliceFeatures
from vtc_adapters._llava import LlavaAdapter

_KEEPS_LAYERS = hasattr(output_capturing, "select_hidden_states")
"""Whether layer indices can be passed: before transformers 5.23 they exclude the initial states."""


class LlavaOnevisionAdapter(LlavaAdapter):
    """LLaVA-OneVision: 729 SigLIP patches per frame, pooled to 196 tokens in a keyframe."""

    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the grid of the pooled tokens: 14 x 14 of 27 x 27 patches."""
        vision = model.config.vision_config
        side = ceil(vision.image_size // vision.patch_size / 2)
        return side, side

    def tail_length(self) -> int:
        """Return 1, the ``image_newline`` after a video."""
        return 1  # image_newline

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return pooled tokens ``[n, 196, D]`` and all patches ``[n, 729, D]`` for merging."""
        inner, config = model.model, model.config
        layers = config.vision_feature_layer
        # An index or a list of indices keeps the states of these layers only.
        encoded = inner.vision_tower(
            pixels["pixel_values_videos"],
            output_hidden_states=layers if _KEEPS_LAYERS else True,
            return_dict=True,
        )
        states = encoded.hidden_states
        patches = (
            states[layers]
            if isinstance(layers, int)
            else torch.cat([states[layer] for layer in layers], dim=-1)
        )
        if config.vision_feature_select_strategy == "default":
            patches = patches[:, 1:]
        dense = inner.multi_modal_projector(patches)
        tokens = inner.apply_pooling(dense)
        return SliceFeatures(tokens, dense, hidden=encoded.last_hidden_state)

    def project(self, model: Any, states: Sequence[Tensor]) -> SliceFeatures:
        """Project and pool ``[n, 729, Dv]``; see `VideoAdapter.project`."""
        dense = super().project(model, states).tokens
        return SliceFeatures(model.model.apply_pooling(dense), dense)

    def token_saliency(self, model: Any, pixels: Mapping[str, Tensor], received: Tensor) -> Tensor:
        """Pool the saliency as the patches are pooled; see `TowerSaliency.token_saliency`."""
        patches = received[:, 1:] if self.has_class_token(model) else received
        pooled: Tensor = model.model.apply_pooling(patches[..., None])[..., 0]
        return pooled

    def tail(self, model: Any) -> Tensor:
        """Return ``image_newline`` ``[1, D]``."""
        with _on_device(model.model):
            newline: Tensor = model.model.image_newline
            return newline[None].clone()


def _on_device(module: Any) -> Any:
    """Load a module's own parameters to its device if accelerate offloaded them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)
