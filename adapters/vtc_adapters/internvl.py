"""InternVL, as implemented in transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vtc.interfaces.video_span import SliceFeatures
from vtc.video import VideoSource
from vtc_adapters._frame_text import insert_texts
from vtc_adapters._stills import FrameTextStillsAdapter, with_one_token


class InternVLAdapter(FrameTextStillsAdapter):
    """InternVL: each frame is a still image, preceded by its number."""

    tiling = "crop_to_patches"
    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def settings(self, processor: Any) -> Any:
        """Return the video processor."""
        return processor.video_processor

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the grid of a picture's tokens after the pixel shuffle."""
        vision, ratio = model.config.vision_config, model.config.downsample_ratio
        height, width = (
            int(size // patch * ratio)
            for size, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        return height, width

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixel_values`` ``[n, 3, H, W]`` from frames ``[n, H, W, 3]`` uint8."""
        video = rearrange(frames, "n h w c -> n c h w")
        batch = processor.video_processor([video], do_sample_frames=False, return_tensors="pt")
        return {"pixel_values": batch["pixel_values_videos"][0]}

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return tokens ``[n, M, D]`` after the projector."""
        config = model.config
        encoded = model.get_image_features(
            pixels["pixel_values"],
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            return_dict=True,
        )
        return SliceFeatures(encoded.pooler_output, hidden=encoded.last_hidden_state)

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write a turn with "Frame1: ..." for each frame; see `VideoAdapter.prompt`."""
        frames = torch.empty(len(source), 0)  # only its length is used
        short = with_one_token(processor, "image_seq_length")
        text = short.replace_video_token({"pixel_values_videos": [frames]}, 0)
        prompt = super().prompt(processor, question, source)
        return insert_texts(processor, prompt, videos=[text])

    def question(self, text: str) -> str:
        """Remove the numbers of the frames ("Frame1:") from a user turn."""
        return re.sub(r"Frame\d+:", " ", text)
