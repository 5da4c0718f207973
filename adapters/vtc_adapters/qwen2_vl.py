"""Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.part import require
from vtc.interfaces.video_span import CompressedVideo, SliceFeatures
from vtc.video import VideoSource
from vtc_adapters._mrope import Slices
from vtc_adapters._qwen import QwenAdapter, packed_patches, per_slice, size_of_frames

_SLICE_TOKENS = 768
"""``VIDEO_MAX_PIXELS`` of qwen_vl_utils, in tokens."""


class Qwen2VLAdapter(QwenAdapter):
    """Qwen2-VL and Qwen2.5-VL: two frames per slice, positions in time, height and width."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of Qwen2-VL and Qwen2.5-VL.

        Attributes:
            mrope: The position of text after a video. ``"stock"``: as in the installed
                transformers, past the height and width of a slice, which may be earlier than the
                end of a long video. ``"4.57"``: also past the video's last time, as in transformers
                up to 4.57.
        """

        mrope: Literal["stock", "4.57"] = "stock"

        def __post_init__(self) -> None:
            require(self.mrope in ("stock", "4.57"), "mrope", self.mrope, "'stock' or '4.57'")

    config: Config
    video_inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values_videos",
        "video_grid_thw",
        "second_per_grid_ts",
    )

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixel_values_videos`` ``[patches, d]``, with ``video_grid_thw`` ``[1, 3]``."""
        settings = processor.video_processor
        batch = packed_patches(settings, frames, _size(settings, frames, total))
        return {name: batch[name] for name in self.video_inputs[:2]}

    def notes(self, processor: Any, source: VideoSource) -> list[str]:
        """Report if a lazy video gets fewer tokens per slice than the processor allows."""
        settings = processor.video_processor
        frames = torch.empty(1, source.height, source.width, 3, dtype=torch.uint8, device="meta")
        tokens, stock = (
            height * width // (settings.patch_size * settings.merge_size) ** 2
            for height, width in (
                _size(settings, frames, len(source)),
                _size(settings, frames, len(source), limited=False),
            )
        )
        if tokens == stock:
            return []
        return [
            f"frames of {source.width} x {source.height} are resized to {tokens:,} tokens a slice, "
            f"as qwen_vl_utils does for video (at most {_SLICE_TOKENS}), in place of {stock:,}; "
            "processor.video_processor.cap_pixels_per_frame = False keeps the processor's size"
        ]

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return tokens ``[n, M, D]`` after the merger of 2 x 2 patches."""
        grid = pixels["video_grid_thw"]
        encoded = model.model.get_video_features(
            pixels["pixel_values_videos"], video_grid_thw=grid, return_dict=True
        )
        tokens = per_slice(torch.cat(list(encoded.pooler_output)), grid)
        return SliceFeatures(tokens, hidden=per_slice(encoded.last_hidden_state, grid))

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Pack the features ``[F, D]`` of each row as a tuple."""
        return BaseModelOutputWithPooling(pooler_output=tuple(rows))

    def _slices(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        number: int,
        video: CompressedVideo,
        cells: Tensor,
    ) -> Slices:
        """Shift the first slice in time; a merged slice is placed at its centre."""
        interval = self._interval(model, inputs, number, video)
        times = (torch.arange(len(video.span)) * interval).long()
        still = torch.zeros_like(times)
        after = 0
        if self.config.mrope == "4.57":
            after = max(0, int(times[-1] + 1 - (cells.max() + 1 - cells[0, 0])))
        return Slices(torch.stack([times, still, still]), after)

    def _interval(
        self, model: Any, inputs: Mapping[str, Any], number: int, video: CompressedVideo
    ) -> float:
        """Return the time step between slices: 1 in Qwen2-VL, from the seconds in Qwen2.5-VL."""
        rate = getattr(model.config.vision_config, "tokens_per_second", None)
        if rate is None:
            return 1.0
        seconds = inputs.get("second_per_grid_ts")
        if seconds is not None:
            return float(rate * seconds[number])
        # Without times the stock model assumes one second. Rounding removes the jitter of real
        # times.
        return float(rate * (round(video.seconds_per_slice or 1.0, 2)))


def _size(settings: Any, frames: Tensor, total: int, limited: bool = True) -> tuple[int, int]:
    """Return the size of a lazy video's frames.

    The processor's ``cap_pixels_per_frame`` decides: True and False mean the same as in the stock
    processor; None, the value in released checkpoints, limits slices to `_SLICE_TOKENS`.

    Args:
        limited: Whether None has this effect.
    """
    cap, longest = getattr(settings, "cap_pixels_per_frame", None), settings.size["longest_edge"]
    if cap is None and limited:
        longest = min(longest, _SLICE_TOKENS * (settings.patch_size * settings.merge_size) ** 2)
    return size_of_frames(settings, frames, total, longest_edge=longest, cap=bool(cap))
