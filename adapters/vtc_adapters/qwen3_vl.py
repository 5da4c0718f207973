"""Qwen3-VL and Qwen3.5, including their mixture-of-experts models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.video_utils import VideoMetadata

from vtc.interfaces.part import require
from vtc.interfaces.video_span import CompressedVideo, SliceFeatures
from vtc.video import VideoSource
from vtc_adapters._frame_text import insert_texts, keeps_text, require_frame_text, text_around
from vtc_adapters._mrope import Slices, slices_with_frame_text
from vtc_adapters._qwen import QwenAdapter, packed_patches, per_slice, size_of_frames


class Qwen3VLAdapter(QwenAdapter):
    """Qwen3-VL, Qwen3.5: a timestamp before each slice, and deepstack features for early layers.

    A timestamp with its marks takes about ten tokens and a merged slice one, so by default only
    keyframes keep it. A merged slice's position still encodes its time.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of Qwen3-VL.

        Attributes:
            frame_text: The slices that keep the timestamp and markers around them: ``"keyframes"``,
                ``"all"`` or ``"none"``.
            resolution_frames: The stock processor shrinks frames more the longer the video is. A
                lazy video is treated as if it had at most this many frames.
        """

        frame_text: Literal["all", "keyframes", "none"] = "keyframes"
        resolution_frames: int = 768

        def __post_init__(self) -> None:
            require_frame_text(self.frame_text)
            enough = self.resolution_frames >= 2
            require(enough, "resolution_frames", self.resolution_frames, "a number of at least 2")

    config: Config
    renamed_options = {"wrapping": "frame_text"}
    placeholder_per_slice = True
    projectors: ClassVar[tuple[str, ...]] = (
        "model.visual.merger",
        "model.visual.deepstack_merger_list",
    )

    def frame_text(self, slots: Tensor) -> tuple[Tensor, ...]:
        """Return the timestamp and the two markers around each of the slots ``[N, M]``."""
        return text_around(slots, opening=1, closing=1)

    def keeps_frame_text(self, is_keyframe: Tensor) -> Tensor:
        """Return the mask ``[N]`` of slices that keep their text, by the option ``frame_text``."""
        return keeps_text(self.config.frame_text, is_keyframe)

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return tokens ``[n, M, D]``, and the same shape for each deepstack layer."""
        grid = pixels["video_grid_thw"]
        encoded = model.model.get_video_features(
            pixels["pixel_values_videos"], video_grid_thw=grid, return_dict=True
        )
        layers = getattr(encoded, "deepstack_features", None) or ()
        tokens, *extra = (
            per_slice(torch.cat(list(part)), grid) for part in (encoded.pooler_output, *layers)
        )
        hidden = per_slice(encoded.last_hidden_state, grid)
        return SliceFeatures(tokens, extra=tuple(extra), hidden=hidden)

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Split rows ``[F, (1 + layers) * D]`` into tokens and deepstack features."""
        width = model.config.text_config.hidden_size
        tokens, *extra = zip(*(torch.split(row, width, dim=-1) for row in rows), strict=True)
        if not extra:
            return BaseModelOutputWithPooling(pooler_output=tokens)
        return BaseModelOutputWithDeepstackFeatures(pooler_output=tokens, deepstack_features=extra)

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixel_values_videos`` ``[patches, d]``, with ``video_grid_thw`` ``[1, 3]``."""
        settings = processor.video_processor
        total = min(total, self.config.resolution_frames)
        size = size_of_frames(
            settings,
            frames,
            total,
            longest_edge=settings.size["longest_edge"],
            cap=bool(settings.cap_pixels_per_frame),
        )
        batch = packed_patches(settings, frames, size)
        return {name: batch[name] for name in self.video_inputs}

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write a turn with a timestamp for each slice; see `VideoAdapter.prompt`."""
        # The stock text of a video with one placeholder per slice.
        merge = processor.video_processor.merge_size
        times = source.timestamps.tolist()
        video_inputs = {
            "video_grid_thw": torch.tensor([[-(-len(times) // 2), merge, merge]]),
            "video_metadata": [
                VideoMetadata(total_num_frames=len(times), fps=1.0, frames_indices=times)
            ],
        }
        text = processor.replace_video_token(video_inputs, 0)
        prompt = super().prompt(processor, question, source)
        return insert_texts(processor, prompt, videos=[text])

    def question(self, text: str) -> str:
        """Remove the timestamps ("<1.5 seconds>") from a user turn."""
        return re.sub(r"<\d+\.\d seconds>", " ", text)

    def _slices(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        number: int,
        video: CompressedVideo,
        cells: Tensor,
    ) -> Slices:
        return slices_with_frame_text(video.span, cells)


class Qwen35Adapter(Qwen3VLAdapter):
    """Qwen3.5: like Qwen3-VL, without deepstack."""

    projectors = ("model.visual.merger",)
