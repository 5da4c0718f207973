"""Qwen3-VL and Qwen3.5, and their mixtures of experts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers.image_utils import SizeDict
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from vtc.interfaces.part import require
from vtc.interfaces.video_span import CompressedVideo, SliceFeatures
from vtc.video import VideoSource
from vtc_adapters._frame_text import keeps_text, require_frame_text, text_around, written_out
from vtc_adapters._mrope import Slices, wrapped_slices
from vtc_adapters._qwen import QwenAdapter


class Qwen3VLAdapter(QwenAdapter):
    """Qwen3-VL, Qwen3.5: a timestamp before each slice, and features for the first layers.

    A timestamp with its marks is about ten tokens, where a merged slice is one: by default only
    keyframes keep theirs. A merged slice's time then shows in its position alone.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of Qwen3-VL.

        Attributes:
            frame_text: Which slices keep the timestamp and the markers around them:
                ``"keyframes"``, ``"all"`` or ``"none"``.
            resolution_frames: The stock processor shrinks frames the more, the more there are. A
                video decoded while it is read is shrunk as one of so many frames at most.
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
        return text_around(slots, opening=1, closing=1)

    def keeps_frame_text(self, is_keyframe: Tensor) -> Tensor:
        return keeps_text(self.config.frame_text, is_keyframe)

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        grid = pixels["video_grid_thw"]
        encoded = model.model.get_video_features(
            pixels["pixel_values_videos"], video_grid_thw=grid, return_dict=True
        )
        tokens, *extra = (
            torch.cat(list(part)).view(int(grid[0, 0]), -1, part[0].shape[-1])
            for part in (
                encoded.pooler_output,
                *(getattr(encoded, "deepstack_features", None) or ()),
            )
        )
        return SliceFeatures(tokens, extra=tuple(extra))

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithDeepstackFeatures:
        width = model.config.text_config.hidden_size
        tokens, *extra = zip(*(torch.split(row, width, dim=-1) for row in rows), strict=True)
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=list(tokens), deepstack_features=[list(layer) for layer in extra]
        )

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        settings = processor.video_processor
        total = min(total, self.config.resolution_frames)
        video = frames.permute(0, 3, 1, 2)[None]
        # What the stock processor would make of all frames, without having them.
        size = settings.resize(
            videos=video.new_empty(1, max(total, 2), *video.shape[2:], device="meta"),
            size=settings.size,
            resample=settings.resample,
            factor=settings.patch_size * settings.merge_size,
            temporal_factor=settings.temporal_patch_size,
            cap_pixels_per_frame=bool(settings.cap_pixels_per_frame),
        ).shape[-2:]
        resized = BaseVideoProcessor.resize(
            settings, video, SizeDict(height=size[0], width=size[1]), resample=settings.resample
        )
        batch = settings(
            [resized[0]],
            do_sample_frames=False,
            do_resize=False,
            cap_pixels_per_frame=False,  # of sizes that are not used; without it a warning
            return_tensors="pt",
        )
        return {name: batch[name] for name in self.video_inputs}

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        # The stock text about a video whose slices have one placeholder each.
        merge = processor.video_processor.merge_size
        times = source.timestamps.tolist()
        described = {
            "video_grid_thw": torch.tensor([[-(-len(times) // 2), merge, merge]]),
            "video_metadata": [
                VideoMetadata(total_num_frames=len(times), fps=1.0, frames_indices=times)
            ],
        }
        text = processor.replace_video_token(described, 0)
        prompt = super().prompt(processor, question, source)
        return written_out(processor, prompt, videos=[text])

    def question(self, text: str) -> str:
        return re.sub(r"<\d+\.\d seconds>", " ", text)

    def _slices(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        number: int,
        video: CompressedVideo,
        cells: Tensor,
    ) -> Slices:
        return wrapped_slices(video.span, cells)


class Qwen35Adapter(Qwen3VLAdapter):
    """Qwen3.5: as Qwen3-VL, without deepstack."""

    projectors = ("model.visual.merger",)
