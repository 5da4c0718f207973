"""Video-LLaVA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import SliceFeatures
from vtc_adapters._llava import LlavaAdapter


class VideoLlavaAdapter(LlavaAdapter):
    """Video-LLaVA: a frame has its class token among its placeholders, before its patches.

    Keyframes keep the class token. The others are merged from their patches alone, which a class
    token has no place among.
    """

    fixed_inputs = ("vision_feature_layer",)  # the select strategy is for images only
    vision_towers = ("model.video_tower", "model.image_tower")

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        return 1, 1 + _patches(model)

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        video = pixels["pixel_values_videos"][None]
        tokens = model.model.get_video_features(video, return_dict=True).pooler_output
        return SliceFeatures(tokens=tokens, dense=tokens[:, 1:])

    def encode_images(
        self, model: Any, inputs: dict[str, Any]
    ) -> BaseModelOutputWithPooling | None:
        # The processor's name for them, which newer transformers are about to drop.
        old, new = (inputs.pop(f"pixel_values{end}", None) for end in ("_images", ""))
        images = new if old is None else old
        if images is None:
            return None
        strategy = inputs.pop("vision_feature_select_strategy", None)
        features: BaseModelOutputWithPooling = model.base_model.get_image_features(
            images, vision_feature_select_strategy=strategy, return_dict=True
        )
        return features


def _patches(model: Any) -> int:
    vision = model.config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)
