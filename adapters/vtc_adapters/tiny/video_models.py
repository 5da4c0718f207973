"""Tiny models of the families whose processor accepts videos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtc_adapters.tiny.tokenizer import CHAT_TEMPLATE, byte_tokenizer, text_sizes


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    side, patch = 42, 14  # 9 patches per frame, pooled to 4 tokens
    pinpoints = [[side, side], [side, 2 * side], [2 * side, side]]
    processor = llava_onevision_processor(side, patch, pinpoints)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=patch,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(**text_sizes(processor.tokenizer)),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=processor.tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def llava_onevision_processor(side: int, patch: int, pinpoints: list[list[int]]) -> Any:
    """Build a processor for frames of ``side`` x ``side`` pixels, with a byte-level tokenizer."""
    from transformers import (
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    size = {"height": side, "width": side}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        tokenizer=byte_tokenizer("<image>", "<video>"),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def _llava_next_video() -> tuple[Any, Any]:
    from transformers import (
        LlavaNextImageProcessor,
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
        LlavaNextVideoProcessor,
        LlavaNextVideoVideoProcessor,
    )

    tokenizer = byte_tokenizer("<image>", "<video>", bos="<s>")
    side, patch = 56, 14  # 16 patches per frame, pooled to 4 tokens
    config = LlavaNextVideoConfig(
        **clip_and_llama(tokenizer, side, patch),
        image_grid_pinpoints=[[side, side], [side, 2 * side], [2 * side, side]],
    )
    sizes = clip_sizes(side)
    processor = LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**sizes),
        image_processor=LlavaNextImageProcessor(
            **sizes, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaNextVideoForConditionalGeneration(config), processor


def _video_llava() -> tuple[Any, Any]:
    from transformers import (
        VideoLlavaConfig,
        VideoLlavaForConditionalGeneration,
        VideoLlavaImageProcessor,
        VideoLlavaProcessor,
        VideoLlavaVideoProcessor,
    )

    tokenizer = byte_tokenizer("<image>", "<video>", bos="<s>")
    side, patch = 56, 14  # 16 patches and a class token per frame
    sizes = clip_sizes(side)
    processor = VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(**sizes),
        video_processor=VideoLlavaVideoProcessor(**sizes),
        tokenizer=tokenizer,
        patch_size=patch,
        chat_template=CHAT_TEMPLATE,
    )
    config = VideoLlavaConfig(**clip_and_llama(tokenizer, side, patch))
    return VideoLlavaForConditionalGeneration(config), processor


def clip_sizes(side: int) -> dict[str, dict[str, int]]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def clip_and_llama(tokenizer: Any, side: int, patch: int) -> dict[str, Any]:
    """Return the settings that LLaVA 1.5, LLaVA-NeXT-Video and Video-LLaVA share."""
    from transformers import CLIPVisionConfig, LlamaConfig

    return {
        "vision_config": CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=side,
            patch_size=patch,
        ),
        "text_config": LlamaConfig(**text_sizes(tokenizer), bos_token_id=tokenizer.bos_token_id),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "video_token_index": tokenizer.convert_tokens_to_ids("<video>"),
    }


def _qwen2_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return _qwen(Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, vision)


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
    )

    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 56,
        "tokens_per_second": 2,
    }
    return _qwen(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, vision)


_QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_TEMPLATE = CHAT_TEMPLATE.replace(
    "<image>", "<|vision_start|><|image_pad|><|vision_end|>"
).replace("<video>", "<|vision_start|><|video_pad|><|vision_end|>")


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """Return the special token ids of a Qwen-VL configuration."""
    names = ("vision_start", "vision_end", "image", "video")
    ids = tokenizer.convert_tokens_to_ids(list(_QWEN_MARKS))
    return {f"{name}_token_id": id for name, id in zip(names, ids, strict=True)}


def qwen_processor(processor_class: Any, **settings: Any) -> Any:
    """Build a processor of Qwen2-VL or Qwen2.5-VL with a byte-level tokenizer.

    Args:
        **settings: Passed to the image processor and the video processor.
    """
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    return processor_class(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=byte_tokenizer(*_QWEN_MARKS),
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=_QWEN_TEMPLATE,
    )


def _qwen(
    config_class: Any, model_class: Any, processor_class: Any, vision: dict[str, Any]
) -> tuple[Any, Any]:
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 12}
    processor = qwen_processor(processor_class, size=size)
    config = config_class(
        vision_config={**vision, "patch_size": 14, "spatial_merge_size": 2},
        text_config={
            **text_sizes(processor.tokenizer),
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        **qwen_ids(processor.tokenizer),
    )
    return model_class(config), processor


def _qwen3_vl() -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    return _qwen3(Qwen3VLConfig, Qwen3VLForConditionalGeneration, {})


def _qwen3_vl_moe() -> tuple[Any, Any]:
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    model, processor = _qwen3(Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, _EXPERTS)
    model.set_experts_implementation("eager")  # the other implementations do not support float64
    return model, processor


def _qwen3_5() -> tuple[Any, Any]:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    return _qwen3(Qwen3_5Config, Qwen3_5ForConditionalGeneration, _LINEAR_ATTENTION)


def _qwen3_5_moe() -> tuple[Any, Any]:
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    text = {**_LINEAR_ATTENTION, **_EXPERTS, "shared_expert_intermediate_size": 32}
    model, processor = _qwen3(Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, text)
    model.set_experts_implementation("eager")  # the other implementations do not support float64
    return model, processor


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def _qwen3(config_class: Any, model_class: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = byte_tokenizer(*_QWEN_MARKS)
    config = config_class(
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            **text_sizes(tokenizer),
            **text,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        **qwen_ids(tokenizer),
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 12}
    patches = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    whole = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 6 * 64}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **patches),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=whole, cap_pixels_per_frame=False, **patches),
        chat_template=_QWEN_TEMPLATE,
    )
    return model_class(config), processor


VIDEO_MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava_next_video": _llava_next_video,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_vl": _qwen2_vl,
    "qwen3_5": _qwen3_5,
    "qwen3_5_moe": _qwen3_5_moe,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "video_llava": _video_llava,
}
