"""LLaVA-OneVision, and LLaVA-Video checkpoints converted to its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.video_adapter import SliceFeatures, VideoAdapter, VideoSpan


class LlavaOnevisionAdapter(VideoAdapter):
    """LLaVA-OneVision: 729 SigLIP patches a frame, pooled to 196 tokens where they are kept."""

    fixed_inputs = ("vision_feature_layer", "vision_feature_select_strategy")

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        vision = model.config.vision_config
        side = ceil(vision.image_size // vision.patch_size / 2)
        return side, side

    def tail_length(self) -> int:
        return 1  # image_newline

    def spans(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[VideoSpan]:
        grid = self.slice_grid(model, inputs)
        slots = grid[0] * grid[1]
        videos, frames = inputs["pixel_values_videos"].shape[:2]
        length = frames * slots + self.tail_length()
        spans = []
        for row, ids in enumerate(inputs["input_ids"]):
            places = (ids == self.video_token_id(model)).nonzero().flatten()
            places = places[places >= start]
            if len(places) % length:
                raise ValueError(
                    f"row {row} of input_ids has {len(places)} video placeholders, but videos of "
                    f"{frames} frames have {frames} x {slots} + 1 = {length} each; "
                    "make input_ids and pixel_values_videos with one call of the processor"
                )
            for run in places.split(length):
                if len(run):
                    body, tail = run[:-1], run[-1:]
                    spans.append(VideoSpan(row, body.view(frames, slots), tail, grid))
        if len(spans) != videos:
            raise ValueError(
                f"pixel_values_videos holds {videos} videos, but input_ids has placeholders for "
                f"{len(spans)}; make both with one call of the processor"
            )
        return spans

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        return {"pixel_values_videos": inputs["pixel_values_videos"][video, list(slices)]}

    def preprocess(self, processor: Any, frames: Tensor) -> dict[str, Tensor]:
        video = frames.permute(0, 3, 1, 2)
        batch = processor.video_processor([video], do_sample_frames=False, return_tensors="pt")
        return {"pixel_values_videos": batch["pixel_values_videos"][0]}

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        settings = processor.video_processor
        frames = pixels["pixel_values_videos"].float()
        if settings.do_normalize:
            mean, std = (frames.new_tensor(v) for v in (settings.image_mean, settings.image_std))
            frames = frames * std[:, None, None] + mean[:, None, None]
        if settings.do_rescale:
            frames = frames / settings.rescale_factor
        return frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        inner, config = model.model, model.config
        layers = config.vision_feature_layer
        # The layers' own numbers: newer transformers then keep only those states.
        states = inner.vision_tower(
            pixels["pixel_values_videos"], output_hidden_states=layers or True, return_dict=True
        ).hidden_states
        patches = (
            states[layers]
            if isinstance(layers, int)
            else torch.cat([states[layer] for layer in layers], dim=-1)
        )
        if config.vision_feature_select_strategy == "default":
            patches = patches[:, 1:]
        dense = inner.multi_modal_projector(patches)
        return SliceFeatures(tokens=inner.apply_pooling(dense), dense=dense)

    def tail(self, model: Any) -> Tensor:
        with _on_device(model.model):
            newline: Tensor = model.model.image_newline
            return newline[None].clone()

    def pack(self, videos: list[Tensor]) -> BaseModelOutputWithPooling:
        same = len({len(video) for video in videos}) == 1
        features = torch.stack(videos) if same else torch.cat(videos)[None]
        return BaseModelOutputWithPooling(pooler_output=features)

    def expands_for_beams(self, videos: list[Tensor]) -> bool:
        # `generate` takes the first dimension for videos; ragged ones are packed into one.
        return len({len(video) for video in videos}) == 1


def _on_device(module: Any) -> Any:
    """Bring a module's own parameters from where accelerate's offloading keeps them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)
