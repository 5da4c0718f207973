"""Video-LLaVA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import EncodedInput, SliceFeatures
from vtc_adapters._llava import LlavaAdapter
from vtc_adapters._pixels import stacked_if_equal


class VideoLlavaAdapter(LlavaAdapter):
    """Video-LLaVA: the placeholders of a frame are its class token and its patches.

    Keyframes keep the class token. Non-keyframes are merged from their patches alone.
    """

    fixed_inputs = ("vision_feature_layer",)  # the select strategy applies to images only
    vision_towers = ("model.video_tower", "model.image_tower")

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return (1, 1 + patches): the class token comes first."""
        return 1, 1 + _patches(model)

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return tokens ``[n, 1 + P, D]`` and the patches ``[n, P, D]`` for merging."""
        video = pixels["pixel_values_videos"][None]
        encoded = model.model.get_video_features(video, return_dict=True)
        tokens = encoded.pooler_output
        return SliceFeatures(tokens, dense=tokens[:, 1:], hidden=encoded.last_hidden_state)

    def project(self, model: Any, states: Sequence[Tensor]) -> SliceFeatures:
        """Project ``[n, 1 + P, Dv]``; see `VideoAdapter.project`."""
        tokens = super().project(model, states).tokens
        return SliceFeatures(tokens, dense=tokens[:, 1:])

    def pooled(self, encoded: Sequence[EncodedInput]) -> Tensor | list[Tensor]:
        """Return the tokens of each frame, as one tensor if all have the same number."""
        return stacked_if_equal([frame for video in encoded for frame in video.slices])

    def encode_images(
        self, model: Any, inputs: dict[str, Any]
    ) -> BaseModelOutputWithPooling | None:
        """Encode ``pixel_values_images`` ``[B, 3, H, W]``; see `VideoAdapter.encode_images`."""
        # The processor's name for the pixels, which newer transformers replace.
        old, new = (inputs.pop(f"pixel_values{end}", None) for end in ("_images", ""))
        images = new if old is None else old
        if images is None:
            return None
        strategy = inputs.pop("vision_feature_select_strategy", None)
        features: BaseModelOutputWithPooling = model.base_model.get_image_features(
            images, vision_feature_select_strategy=strategy, return_dict=True
        )
        return features


def _patches(model: Any) -> int:
    vision = model.config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)
