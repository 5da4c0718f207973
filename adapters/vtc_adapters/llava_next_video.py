"""LLaVA-NeXT-Video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import SliceFeatures
from vtc_adapters._llava import LlavaAdapter


class LlavaNextVideoAdapter(LlavaAdapter):
    """LLaVA-NeXT-Video: CLIP patches are pooled before the projector; no newline follows."""

    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the grid of patches after pooling by ``spatial_pool_stride``."""
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size // model.config.spatial_pool_stride
        return side, side

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return tokens ``[n, M, D]`` after pooling and the projector."""
        # One-frame videos, for which transformers 5.18 and 5.23 return the same features.
        frames = pixels["pixel_values_videos"][:, None]
        encoded = model.model.get_video_features(frames, return_dict=True)
        tokens = [frame.reshape(-1, frame.shape[-1]) for frame in encoded.pooler_output]
        return SliceFeatures(torch.stack(tokens), hidden=encoded.last_hidden_state)

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Pack the features ``[F, D]`` of each row as a list."""
        return BaseModelOutputWithPooling(pooler_output=rows)
