"""LLaVA 1.5 and models of the same class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_adapter import chat_prompt
from vtc.interfaces.video_span import EncodedInput
from vtc.video import VideoSource
from vtc_adapters._stills import StillsAdapter


class LlavaImageAdapter(StillsAdapter):
    """LLaVA 1.5: frames are consecutive still images, with no text between them."""

    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the grid of patches; (1, h * w + 1) if the class token is kept."""
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size
        if model.config.vision_feature_select_strategy == "full":
            return 1, side * side + 1  # with the class token
        return side, side

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Pack the features ``[F, D]`` of each row as a list."""
        return BaseModelOutputWithPooling(pooler_output=rows)

    def pooled(self, encoded: Sequence[EncodedInput]) -> list[Tensor]:
        """Return the tokens of each frame."""
        return [frame for video in encoded for frame in video.slices]

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write a turn with one image placeholder; see `VideoAdapter.prompt`."""
        return chat_prompt(processor, [{"type": "image"}], question)
