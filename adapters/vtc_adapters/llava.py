"""LLaVA 1.5, and models of its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.video import VideoSource
from vtc.video_adapter import chat_prompt
from vtc.video_span import SliceFeatures
from vtc_adapters._stills import StillsAdapter


class LlavaImageAdapter(StillsAdapter):
    """LLaVA 1.5: frames as still images one after the other, with no text between them."""

    projectors = ("model.multi_modal_projector",)
    vision_towers = ("model.vision_tower",)
    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def settings(self, processor: Any) -> Any:
        return processor.image_processor

    def runs(self, places: Tensor, each: int) -> list[Tensor]:
        return list(torch.split(places, each))

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size
        if model.config.vision_feature_select_strategy == "full":
            return 1, side * side + 1  # the class token among them
        return side, side

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        images = list(frames.permute(0, 3, 1, 2))
        batch = processor.image_processor(images, return_tensors="pt")
        return {"pixel_values": batch["pixel_values"]}

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        encoded = model.get_image_features(pixels["pixel_values"], return_dict=True).pooler_output
        return SliceFeatures(torch.stack(list(encoded)))

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=rows)

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        return chat_prompt(processor, [{"type": "image"}], question)

    def could_be_frames(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        pictures = inputs.get("pixel_values")
        return pictures is not None and len(pictures) > len(inputs["input_ids"])
