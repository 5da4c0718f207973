"""SmolVLM."""

from __future__ import annotations

import re
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from transformers.video_utils import VideoMetadata

from vtc.video import VideoSource
from vtc_adapters._frame_text import insert_texts
from vtc_adapters._idefics import IdeficsAdapter
from vtc_adapters._stills import with_one_token


class SmolVLMAdapter(IdeficsAdapter):
    """SmolVLM: after an introduction, each frame is a still image, preceded by its time."""

    def settings(self, processor: Any) -> Any:
        """Return the video processor."""
        return processor.video_processor

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixel_values`` ``[1, n, 3, H, W]`` and their mask from frames ``[n, H, W, 3]``."""
        video = rearrange(frames, "n h w c -> n c h w")
        batch = processor.video_processor([video], do_sample_frames=False, return_tensors="pt")
        return {name: batch[name] for name in self.video_inputs}

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write a turn with the time of each frame; see `VideoAdapter.prompt`."""
        times = source.timestamps.tolist()
        metadata = VideoMetadata(
            total_num_frames=len(times), fps=1.0, duration=source.duration, frames_indices=times
        )
        frames = torch.empty(1, len(times), device="meta")  # only its length is used
        text = with_one_token(processor, "image_seq_len").replace_video_token(
            {"pixel_values": frames, "video_metadata": [metadata]}, 0
        )
        prompt = super().prompt(processor, question, source)
        return insert_texts(processor, prompt, videos=[text])

    def question(self, text: str) -> str:
        """Remove the introduction and the times ("Frame from 00:01:") from a user turn."""
        text = re.sub(r"You are provided the following series of .*? video\.", " ", text)
        return re.sub(r"Frame from \d+:\d+:", " ", text)
