"""Tiny models of real Hugging Face classes, built offline in a second or two.

Their linear weights are redrawn at a standard deviation of 0.25: at the usual initialisation a
tiny model hardly reacts to wrong tokens or positions, and a test with it proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% elif part.type == 'video' %}<video>"
    "{% else %}{{ '\\n' + part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny(family: str = "llava_onevision", *, seed: int = 0) -> tuple[Any, Any]:
    """Build a tiny model of a family, with random weights that react to errors.

    Args:
        family: The ``model_type`` of the configuration.
        seed: Of the weights.

    Returns:
        The model, in evaluation mode, float32, on the CPU; and its processor.

    Raises:
        ValueError: There is no tiny model of this family.
    """
    if family not in _BUILDERS:
        raise ValueError(f"no tiny model of {family!r}; there are: {', '.join(sorted(_BUILDERS))}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = _BUILDERS[family]()
        redraw(model)
    return model.eval(), processor


def redraw(model: torch.nn.Module, std: float = 0.25) -> None:
    """Redraw the weights of all linear layers, so that outputs react to their inputs."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=std)


def byte_tokenizer() -> Any:
    """A tokenizer of single bytes with the special tokens of a chat, made in memory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t != "<|endoftext|>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer()
    side, patch = 42, 14  # 9 patches a frame, pooled to 4 tokens
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
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=65536,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[side, side], [side, 2 * side], [2 * side, side]],
    )
    size = {"height": side, "width": side}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, processor


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {"llava_onevision": _llava_onevision}
