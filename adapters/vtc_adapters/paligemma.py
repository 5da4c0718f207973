"""PaliGemma and PaliGemma 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtc.video import VideoSource
from vtc.video_span import SliceFeatures
from vtc_adapters._stills import StillsAdapter


class PaliGemmaAdapter(StillsAdapter):
    """PaliGemma: all frames before the question, with no text between them."""

    projectors = ("model.multi_modal_projector",)
    vision_towers = ("model.vision_tower",)

    def settings(self, processor: Any) -> Any:
        return processor.image_processor

    def runs(self, places: Tensor, each: int) -> list[Tensor]:
        return list(torch.split(places, each))  # with no text between them

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        return side, side

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        images = list(frames.permute(0, 3, 1, 2))
        batch = processor.image_processor(images, return_tensors="pt")
        return {"pixel_values": batch["pixel_values"]}

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        encoded = model.get_image_features(pixels["pixel_values"], return_dict=True)
        return SliceFeatures(encoded.pooler_output)

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        # The form of the stock processor; the family has no chat template.
        return f"{processor.image_token}{processor.tokenizer.bos_token}{question}\n"

    def text_inputs(self, model: Any, ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": torch.zeros_like(ids)}  # all of it a prefix

    def could_be_frames(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        pictures = inputs.get("pixel_values")
        return pictures is not None and len(pictures) > len(inputs["input_ids"])
