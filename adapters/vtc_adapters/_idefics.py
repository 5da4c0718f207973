"""What SmolVLM and Idefics3 share: pictures padded to a rectangle ``[B, P, 3, H, W]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import SliceFeatures
from vtc_adapters._pixels import to_rgb
from vtc_adapters._stills import FrameTextStillsAdapter


class IdeficsAdapter(FrameTextStillsAdapter):
    """Families with ``pixel_values`` ``[B, P, 3, H, W]`` and a mask of their pixels."""

    video_inputs = ("pixel_values", "pixel_attention_mask")
    projectors = ("model.connector",)
    vision_towers = ("model.vision_model",)
    marks = (2, 1)
    tiling = "do_image_splitting"

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        vision = model.config.vision_config
        side = isqrt((vision.image_size // vision.patch_size) ** 2 // model.config.scale_factor**2)
        return side, side

    def count(self, inputs: Mapping[str, Any]) -> int:
        # The processor fills rows with fewer pictures with zeros, as the stock model knows.
        return int((inputs["pixel_values"] != 0).flatten(2).any(-1).sum())

    def numbers(self, inputs: Mapping[str, Any], rows: list[list[Tensor]]) -> list[int]:
        return [row * inputs["pixel_values"].shape[1] for row in range(len(rows))]

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        chosen = [video + number for number in slices]
        return {
            name: inputs[name].flatten(0, 1)[chosen][None]
            for name in self.video_inputs
            if inputs.get(name) is not None
        }

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        return to_rgb(self.settings(processor), pixels["pixel_values"][0])

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        encoded = model.get_image_features(**pixels, return_dict=True).pooler_output
        height, width = self.slice_grid(model, pixels)
        features = torch.cat(list(encoded))
        return SliceFeatures(features.view(-1, height * width, features.shape[-1]))

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        # Blocks of one token each: older transformers count a picture's tokens by the first block.
        return BaseModelOutputWithPooling(pooler_output=torch.cat(rows)[:, None])
