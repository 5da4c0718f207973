"""InternVL, in the classes of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.video_span import SliceFeatures
from vtc.video import VideoSource
from vtc_adapters._frame_text import written_out
from vtc_adapters._stills import FrameTextStillsAdapter, one_token_each


class InternVLAdapter(FrameTextStillsAdapter):
    """InternVL: each frame a still image with its number before it."""

    tiling = "crop_to_patches"
    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def settings(self, processor: Any) -> Any:
        return processor.video_processor

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        vision, ratio = model.config.vision_config, model.config.downsample_ratio
        height, width = (
            int(size // patch * ratio)
            for size, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        return height, width

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        video = frames.permute(0, 3, 1, 2)
        batch = processor.video_processor([video], do_sample_frames=False, return_tensors="pt")
        return {"pixel_values": batch["pixel_values_videos"][0]}

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        config = model.config
        encoded = model.get_image_features(
            pixels["pixel_values"],
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            return_dict=True,
        )
        return SliceFeatures(encoded.pooler_output)

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        frames = torch.empty(len(source), 0)  # only counted
        brief = one_token_each(processor, "image_seq_length")
        text = brief.replace_video_token({"pixel_values_videos": [frames]}, 0)
        prompt = super().prompt(processor, question, source)
        return written_out(processor, prompt, videos=[text])

    def question(self, text: str) -> str:
        return re.sub(r"Frame\d+:", " ", text)
