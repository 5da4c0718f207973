"""The base of SmolVLM and Idefics3: pictures padded to one tensor ``[B, P, 3, H, W]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import EncodedInput, SliceFeatures
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
        """Return the grid of a picture's tokens after the pixel shuffle."""
        vision = model.config.vision_config
        side = isqrt((vision.image_size // vision.patch_size) ** 2 // model.config.scale_factor**2)
        return side, side

    def count(self, inputs: Mapping[str, Any]) -> int:
        """Count the pictures of ``pixel_values`` ``[B, P, 3, H, W]`` that are not padding."""
        # The processor pads rows that have fewer pictures with zeros, which the stock model skips.
        return int((inputs["pixel_values"] != 0).flatten(2).any(-1).sum())

    def runs(self, places: Tensor, each: int) -> list[Tensor]:
        """Split positions at text, and at picture boundaries without text; tiles have text."""
        return [picture for run in super().runs(places, each) for picture in torch.split(run, each)]

    def numbers(self, inputs: Mapping[str, Any], rows: list[list[Tensor]]) -> list[int]:
        """Return the index of each row's first picture, with P pictures per row."""
        return [row * inputs["pixel_values"].shape[1] for row in range(len(rows))]

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        """Select ``pixel_values`` ``[1, n, 3, H, W]`` and their mask ``[1, n, H, W]``."""
        indices = [video + number for number in slices]
        return {
            name: inputs[name].flatten(0, 1)[indices][None]
            for name in self.video_inputs
            if inputs.get(name) is not None
        }

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        """Return ``[n, H, W, 3]`` uint8 RGB of ``pixel_values`` ``[1, n, 3, H, W]``."""
        return to_rgb(self.settings(processor), pixels["pixel_values"][0])

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return tokens ``[n, M, D]`` after the connector."""
        encoded = model.get_image_features(**pixels, return_dict=True)
        height, width = self.slice_grid(model, pixels)
        features = torch.cat([picture.flatten(0, -2) for picture in encoded.pooler_output])
        tokens = rearrange(features, "(n m) d -> n m d", m=height * width)
        return SliceFeatures(tokens, hidden=encoded.last_hidden_state)

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Pack the features ``[F, D]`` of each row as one tensor ``[sum of F, 1, D]``."""
        # One token per block: older transformers count a picture's tokens by the first block.
        return BaseModelOutputWithPooling(pooler_output=torch.cat(rows)[:, None])

    def pooled(self, encoded: Sequence[EncodedInput]) -> list[Tensor]:
        """Return the tokens of each video or image."""
        return [source.features for source in encoded]
