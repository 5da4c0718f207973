"""The tokenizers, image processing and prompt of the release."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

IMAGE, VIDEO = "<image>", "<video>"
PLACEHOLDERS = (151646, 151647)
"""Ids in the published LLaVA-OneVision, used if there is no tokenizer."""
# The conversation "qwen_1_5" of the release: a system turn, then the video and the question.
CHAT_TEMPLATE = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}{{ '<image>\\n' }}"
    "{% elif part.type == 'video' %}{{ '<video>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_TOKENIZERS = ("tokenizer.json", "vocab.json")
_TOKENIZER_FILES = (*_TOKENIZERS, "merges.txt", "*token*.json", "*.model")


def load_tokenizer(folder: Path) -> Any:
    """Load the language model's tokenizer and add both placeholders; None if it is missing."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return None
    tokenizer = _open_tokenizer(folder)
    tokenizer.add_tokens([IMAGE, VIDEO], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _open_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, hiding a ``config.json`` that transformers may not recognise."""
    from transformers import AutoTokenizer

    with TemporaryDirectory() as copy:
        for file in {file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)}:
            shutil.copy(file, copy)
        return AutoTokenizer.from_pretrained(copy, local_files_only=True)


def placeholders(tokenizer: Any, vocabulary: int) -> tuple[int, int]:
    """Return the ids of ``<image>`` and ``<video>``.

    Args:
        tokenizer: A tokenizer with both; None for the published ids, or the first free ids of a
            smaller vocabulary.
        vocabulary: Number of rows of the embeddings.
    """
    if tokenizer is not None:
        image, video = tokenizer.convert_tokens_to_ids([IMAGE, VIDEO])
        return image, video
    return PLACEHOLDERS if vocabulary >= min(PLACEHOLDERS) else (vocabulary, vocabulary + 1)


def make_processor(tokenizer: Any, config: Any) -> Any:
    """Return the stock processor, which resizes frames to the tower's square input.

    Args:
        tokenizer: From `load_tokenizer`.
        config: The ``LlavaOnevisionConfig``.
    """
    from transformers import (
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    side = config.vision_config.image_size
    pixels = {
        "size": {"height": side, "width": side},
        "resample": 3,  # bicubic
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            **pixels, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=(side // config.vision_config.patch_size) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=config.vision_aspect_ratio,
        chat_template=CHAT_TEMPLATE,
    )


def load_clip_tokenizer(clip: Any, folder: Path | None) -> Any:
    """Load the tokenizer in the ``--clip-config`` folder, or else the published CLIP tokenizer.

    Args:
        clip: The ``CLIPConfig``.
        folder: The ``--clip-config`` folder.

    Raises:
        ValueError: Its size differs from the CLIP's vocabulary.
    """
    if folder and any((folder / name).is_file() for name in _TOKENIZERS):
        tokenizer, source = _open_tokenizer(folder), f"the one in {folder}"
    else:
        tokenizer = _published_clip_tokenizer(clip.text_config.max_position_embeddings)
        source = "the published CLIP tokenizer"
    if len(tokenizer) != clip.text_config.vocab_size:
        raise ValueError(
            f"expected a CLIP tokenizer of {clip.text_config.vocab_size} tokens, got {source} with "
            f"{len(tokenizer)}: put the tokenizer's files into the folder of --clip-config"
        )
    return tokenizer


def save_clip_preprocessing(folder: Path, clip: Any, tokenizer: Any) -> None:
    """Write the frame encoder's image processor, which crops the centre, and its tokenizer.

    Args:
        folder: The folder of the frame encoder.
        clip: The ``CLIPConfig``.
        tokenizer: From `load_clip_tokenizer`.
    """
    from transformers import CLIPImageProcessor

    side = clip.vision_config.image_size
    CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _published_clip_tokenizer(context: int) -> Any:
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    published = SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {renamed.get(token, token): i for token, i in published.encoder.items()}
    return CLIPTokenizer(
        vocab=vocabulary, merges=list(published.bpe_ranks), model_max_length=context
    )
