"""Full-size models by name, without weights: on the meta device, or with random ones.

The sizes are those of the published checkpoints' configurations. Text is a token a byte, which
changes the length of a question and nothing else.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

from vtc.profiler.counting import COUNTED_ATTENTION, register_attention
from vtc.profiler.subject import bytes_of
from vtc.testing._video_models import llava_onevision_processor, qwen_ids, qwen_processor

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
    """SigLIP-so400m at 384 pixels without its last layer, and Qwen2."""
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
    """The vision tower of all Qwen2-VL models, and Qwen2."""
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
"""By name: makes the configuration and a processor, offline."""


def empty_model(config: Any, dtype: Any) -> Any:
    """A model without weights, on the meta device, whose attention is counted as one operation."""
    register_attention()
    return _model(config, "meta", dtype, attn_implementation=COUNTED_ATTENTION)


def random_model(config: Any, dtype: Any, device: str) -> Any:
    """A model with the random weights of its initialisation."""
    return _model(config, device, dtype)


def _model(config: Any, device: str, dtype: Any, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    # from_config writes into what it is given.
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            copy.deepcopy(config), dtype=dtype, **options
        )
    return model.eval().requires_grad_(False)


def check_room(name: str, config: Any, dtype: Any, device: str) -> None:
    """Refuse weights for which the CPU has no memory, before the system kills the process.

    Raises:
        ValueError: They need more than is free.
    """
    if device != "cpu" or not hasattr(os, "sysconf"):
        return
    needed = bytes_of(empty_model(config, dtype))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > free:
        raise ValueError(
            f"the weights of {name} take {needed / 1e9:.1f} GB in {dtype}, and {free / 1e9:.1f} GB "
            "are free here; count it with --device meta, or give a smaller model or --dtype"
        )
