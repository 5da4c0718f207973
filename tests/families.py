"""The conformance suite of each family that vtc supports, with its reference by hand."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.prompts import needs_special_tokens
from vtc.testing import AdapterContract, stock_inputs


class LlavaOnevisionContract(AdapterContract):
    """729 patches merged, 196 pooled ones kept, and the newline."""

    family = "llava_onevision"
    vision_layers = (1, -2, (1,), (-1,), (0, 1), (1, -1))

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        inner = model.model
        pixels = inputs["pixel_values_videos"][video]
        states = inner.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        dense = inner.multi_modal_projector(states)
        side = math.isqrt(dense.shape[1])
        half = math.ceil(side / 2)
        grid = dense.transpose(1, 2).reshape(len(dense), -1, side, side)
        pooled = F.interpolate(grid, (half, half), mode="bilinear").flatten(2).transpose(1, 2)
        return pooled, dense, inner.image_newline[None]


class LlavaNextVideoContract(AdapterContract):
    """Patches pooled before the projector; nothing after the last frame."""

    family = "llava_next_video"
    vision_layers = (1, -2, (1,), (-1,), (0, 1), (1, -1))
    beams_since = "5.23"
    frame = (56, 56)

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        frames = inputs["pixel_values_videos"][video : video + 1]
        encoded = model.model.get_video_features(frames, return_dict=True).pooler_output
        features = torch.cat([part.reshape(-1, part.shape[-1]) for part in encoded])
        features = features.view(frames.shape[1], -1, features.shape[-1])
        return features, features, features[:0, 0]


class VideoLlavaContract(AdapterContract):
    """A class token and patches; only the patches are merged."""

    family = "video_llava"
    vision_layers = (1, -2, (1,), (-1,), (0, 1), (1, -1))
    frame = (56, 56)
    beams_since = "5.23"

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        frames = inputs["pixel_values_videos"][video : video + 1]
        features = model.model.get_video_features(frames, return_dict=True).pooler_output
        features = features.reshape(frames.shape[1], -1, features.shape[-1])
        return features, features[:, 1:], features[:0, 0]


class _QwenContract(AdapterContract):
    frame = (56, 84)
    chunks_since = "5.20"

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        features = model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        ).pooler_output[video]
        slices = int(inputs["video_grid_thw"][video][0])
        features = features.view(slices, -1, features.shape[-1])
        return features, features, features[:0, 0]

    def positions(self, model: Any, inputs: Any, row: int) -> Tensor:
        mask = inputs["attention_mask"][row].bool()
        found, _ = model.model.get_rope_index(
            inputs["input_ids"][row][mask][None],
            mm_token_type_ids=inputs["mm_token_type_ids"][row][mask][None],
            video_grid_thw=inputs["video_grid_thw"][row : row + 1],
            second_per_grid_ts=inputs.get("second_per_grid_ts"),
        )
        positions: Tensor = found[:, 0]
        return positions

    def merged_slot(self, slots: Tensor) -> Tensor:
        height, width = self.frame[0] // 28, self.frame[1] // 28
        centre = height // 2 * width + width // 2
        return slots[centre : centre + 1]


class Qwen2VLContract(_QwenContract):
    """Slices of two frames."""

    family = "qwen2_vl"


class Qwen25VLContract(_QwenContract):
    """As Qwen2-VL; time counts in seconds."""

    family = "qwen2_5_vl"


class Qwen3VLContract(_QwenContract):
    """A timestamp around each slice, and features for the first layers."""

    family = "qwen3_vl"
    marks = (1, 1)

    def inputs(self, processor: Any, videos: Any, questions: Any, images: Any = None) -> Any:
        metadata = [
            {"total_num_frames": len(video), "fps": 1.0, "frames_indices": list(range(len(video)))}
            for video in videos
        ]
        return dict(stock_inputs(processor, videos, questions, images, video_metadata=metadata))

    def deepstack(self, model: Any, inputs: Any, video: int) -> list[Tensor]:
        encoded = model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )
        slices = int(inputs["video_grid_thw"][video][0])
        layers = [layer[video] for layer in encoded.deepstack_features]
        return [layer.view(slices, -1, layer.shape[-1]) for layer in layers]

    def run(
        self, model: Any, embeds: Tensor, where: Tensor | None, visual: Tensor, deep: list[Tensor]
    ) -> Tensor:
        states: Tensor = model.model.language_model(
            inputs_embeds=embeds,
            position_ids=where,
            visual_pos_masks=visual,
            deepstack_visual_embeds=deep,
        ).last_hidden_state
        return states


class Qwen35Contract(Qwen3VLContract):
    """As Qwen3-VL, without deepstack, over linear attention."""

    family = "qwen3_5"
    since = "5.23"
    tolerance = 1e-4  # linear attention stays in float32, in chunks that padding moves

    def deepstack(self, model: Any, inputs: Any, video: int) -> list[Tensor]:
        return []

    run = AdapterContract.run


class Qwen35MoeContract(Qwen35Contract):
    """Qwen3.5 with a mixture of experts."""

    family = "qwen3_5_moe"


class Qwen3VLMoeContract(Qwen3VLContract):
    """Qwen3-VL with a mixture of experts."""

    family = "qwen3_vl_moe"


class _StillsContract(AdapterContract):
    """Frames enter as still images, and ``vtc_frames`` says which they are."""

    frame = (56, 56)
    beams_since = "5.23"
    marks: ClassVar[tuple[int, int] | None] = (1, 1)

    def inputs(self, processor: Any, videos: Any, questions: Any, images: Any = None) -> Any:
        return _declare(super().inputs(processor, videos, questions, images), videos, images)

    def features(self, model: Any, inputs: Any) -> Tensor:
        """The stock features ``[P, M, D]`` of all pictures."""
        found: Tensor = model.get_image_features(
            inputs["pixel_values"], return_dict=True
        ).pooler_output
        return found

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        declared = inputs["vtc_frames"]
        before = sum(videos[0][1] for videos in declared[:video])
        first, frames = declared[video][0]
        features = self.features(model, inputs)[before + first :][:frames]
        return features, features, features[:0, 0]


class InternVLContract(_StillsContract):
    """Frames with their number before them."""

    family = "internvl"
    vision_layers = (1, -2)


class SmolVLMContract(_StillsContract):
    """Frames with their time before them, pictures in a padded rectangle."""

    family = "smolvlm"
    marks = (2, 1)
    mixes_images = False

    def inputs(self, processor: Any, videos: Any, questions: Any, images: Any = None) -> Any:
        metadata = [
            {
                "total_num_frames": len(video),
                "fps": 1.0,
                "duration": float(len(video)),
                "frames_indices": list(range(len(video))),
            }
            for video in videos
        ]
        lists = [[video] for video in videos]  # 5.18 takes a video alone for its frames
        given = stock_inputs(processor, lists, questions, images, video_metadata=metadata)
        return _declare(dict(given), videos, images)

    def reference(self, model: Any, inputs: Any, video: int) -> tuple[Tensor, Tensor, Tensor]:
        before = sum(videos[0][0] + videos[0][1] for videos in inputs["vtc_frames"][:video])
        first, frames = inputs["vtc_frames"][video][0]
        encoded = model.get_image_features(
            inputs["pixel_values"], inputs.get("pixel_attention_mask"), return_dict=True
        ).pooler_output
        pictures = torch.cat([part.reshape(-1, 4, part.shape[-1]) for part in encoded])
        features = pictures[before + first :][:frames]
        return features, features, features[:0, 0]

    def run(
        self, model: Any, embeds: Tensor, where: Tensor | None, visual: Tensor, deep: list[Tensor]
    ) -> Tensor:
        states: Tensor = model.model.text_model(inputs_embeds=embeds).last_hidden_state
        return states


class _ImagesContract(_StillsContract):
    """Families whose processor knows images only."""

    def inputs(self, processor: Any, videos: Any, questions: Any, images: Any = None) -> Any:
        frames = [[*(images or []), *video] for video in videos] or [images or []]
        prompts = [
            processor.apply_chat_template(
                [
                    {
                        "role": "user",
                        "content": [
                            *[{"type": "image"}] * len(pictures),
                            {"type": "text", "text": question},
                        ],
                    }
                ],
                add_generation_prompt=True,
                tokenize=False,
            )
            for pictures, question in zip(frames, questions, strict=True)
        ]
        given = processor(
            text=prompts,
            images=frames if any(frames) else None,
            add_special_tokens=needs_special_tokens(processor, prompts[0]),
            padding=True,
            return_tensors="pt",
        )
        return _declare(dict(given), videos, images)


class Idefics3Contract(_ImagesContract, SmolVLMContract):
    """As SmolVLM, with frames as images."""

    family = "idefics3"
    mixes_images = True
    inputs = _ImagesContract.inputs


class Gemma3Contract(_ImagesContract):
    """The tokens of a picture attend to one another."""

    family = "gemma3"

    def run(
        self, model: Any, embeds: Tensor, where: Tensor | None, visual: Tensor, deep: list[Tensor]
    ) -> Tensor:
        states: Tensor = model.model(
            inputs_embeds=embeds, token_type_ids=visual.long()
        ).last_hidden_state
        return states


class LlavaContract(_ImagesContract):
    """Frames one after the other, with no text between them."""

    family = "llava"
    vision_layers = (1, -2, (1,), (-1,), (0, 1), (1, -1))
    marks = None

    def features(self, model: Any, inputs: Any) -> Tensor:
        return torch.stack(list(super().features(model, inputs)))


class PaliGemmaContract(_ImagesContract):
    """No text between frames; the prompt attends to itself in both directions."""

    family = "paligemma"
    frame = (28, 28)
    marks = None
    later_type = 1

    def inputs(self, processor: Any, videos: Any, questions: Any, images: Any = None) -> Any:
        frames = [[*(images or []), *video] for video in videos] or [images or []]
        prompts = [
            processor.image_token * len(pictures) + question
            for pictures, question in zip(frames, questions, strict=True)
        ]
        if not any(frames):  # which the processor does not know
            given = processor.tokenizer(
                [processor.tokenizer.bos_token + q + "\n" for q in questions], return_tensors="pt"
            )
            return {**given, "token_type_ids": torch.zeros_like(given["input_ids"])}
        given = dict(processor(text=prompts, images=frames, padding=True, return_tensors="pt"))
        del given["labels"]
        return _declare(given, videos, images)

    def run(
        self, model: Any, embeds: Tensor, where: Tensor | None, visual: Tensor, deep: list[Tensor]
    ) -> Tensor:
        states: Tensor = model.model(
            inputs_embeds=embeds, token_type_ids=torch.zeros_like(visual).long()
        ).last_hidden_state
        return states


def _declare(inputs: dict[str, Any], videos: Any, images: Any) -> dict[str, Any]:
    """Say which pictures are frames: those after the still images."""
    if len(videos):
        inputs["vtc_frames"] = [[(len(images or []), len(video))] for video in videos]
    return inputs


FAMILIES: tuple[type[AdapterContract], ...] = (
    Gemma3Contract,
    Idefics3Contract,
    InternVLContract,
    LlavaContract,
    LlavaNextVideoContract,
    LlavaOnevisionContract,
    PaliGemmaContract,
    Qwen2VLContract,
    Qwen25VLContract,
    Qwen35Contract,
    Qwen35MoeContract,
    Qwen3VLContract,
    Qwen3VLMoeContract,
    SmolVLMContract,
    VideoLlavaContract,
)
"""One suite for each supported family."""
