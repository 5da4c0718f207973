"""Full-size models by name, without weights: ``shape:NAME``.

The sizes are those of the published checkpoints' configurations. The tokenizer makes one token per
byte, which affects only the length of a question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtc_adapters.tiny.video_models import llava_onevision_processor, qwen_ids, qwen_processor

QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}
QWEN2_0_5B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}


def _llava_onevision(text: dict[str, int], tied: bool) -> tuple[Any, Any]:
    """Build SigLIP-so400m at 384 pixels, without its last layer, and Qwen2."""
    from transformers import LlavaOnevisionConfig, Qwen2Config

    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**text, vocab_size=152000, tie_word_embeddings=tied),
        tie_word_embeddings=tied,
    )
    vision = config.vision_config
    processor = llava_onevision_processor(
        vision.image_size, vision.patch_size, config.image_grid_pinpoints
    )
    config.image_token_index, config.video_token_index = processor.tokenizer.convert_tokens_to_ids(
        ["<image>", "<video>"]
    )
    return config, processor


def _qwen2_vl(text: dict[str, int]) -> tuple[Any, Any]:
    """Build the vision tower of all Qwen2-VL models, and Qwen2."""
    from transformers import Qwen2VLConfig, Qwen2VLProcessor

    processor = qwen_processor(Qwen2VLProcessor)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = Qwen2VLConfig(
        vision_config={"hidden_size": text["hidden_size"]},
        text_config={
            **text,
            "max_window_layers": text["num_hidden_layers"],
            "vocab_size": 152064,
            "rope_parameters": rope,
            "bos_token_id": None,
            "eos_token_id": processor.tokenizer.eos_token_id,
        },
        **qwen_ids(processor.tokenizer),
    )
    return config, processor


SHAPES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava-onevision-7b": lambda: _llava_onevision(QWEN2_7B, tied=False),
    "llava-onevision-0.5b": lambda: _llava_onevision(QWEN2_0_5B, tied=True),
    "qwen2-vl-7b": lambda: _qwen2_vl(QWEN2_7B),
}


def build(name: str) -> tuple[Any, Any]:
    """Build the configuration of a full-size model and a processor, offline.

    Raises:
        ValueError: There is no shape of this name.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}")
    return SHAPES[name]()
