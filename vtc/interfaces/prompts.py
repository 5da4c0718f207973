"""Check the text that users write into prompts, and its special tokens."""

from __future__ import annotations

import copy
import re
from contextlib import suppress
from typing import Any

_MEDIA_TOKEN = re.compile(r"image|video|vision|audio|img|row_\d+_col_\d+", re.IGNORECASE)
_MEDIA_NAME = re.compile(r"(image|video|vision|audio|boi|eoi)\w*_token$")


def media_tokens(processor: Any) -> list[str]:
    """Return the tokens that mark images, videos and sound in the prompts of a processor.

    >>> media_tokens(processor)  # of Qwen2-VL
    ['<|image_pad|>', '<|video_pad|>', '<|vision_end|>', '<|vision_start|>']
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    tokens = {token for token in tokenizer.get_added_vocab() if _MEDIA_TOKEN.search(token)}
    special = getattr(tokenizer, "special_tokens_map", {})
    for names in (vars(processor), special):
        tokens |= {
            str(token)
            for name, token in names.items()
            if _MEDIA_NAME.search(name) and isinstance(token, str) and token
        }
    return sorted(tokens)


def check_text(processor: Any, text: str, name: str = "question") -> None:
    """Raise if a prompt cannot contain a text.

    Args:
        text: The user's text.
        name: The name of the text in the message.

    Raises:
        ValueError: The text holds a media token of the processor or a lone surrogate.
    """
    for token in media_tokens(processor):
        if token in text:
            raise ValueError(
                f"expected {name} to be plain text, got {text!r} with {token!r}, which marks an "
                "image or a video in this processor's prompts; leave it out"
            )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected {name} to be Unicode text, got {text!r} with a lone surrogate at character "
            f"{error.start}; decode the text with the encoding that it was written in"
        ) from error


def with_system(processor: Any, text: str) -> Any:
    """Return a copy of a processor whose chat template starts with a system turn.

    Args:
        text: The instructions for the model.

    Raises:
        TypeError: ``text`` is not a str.
        ValueError: It is empty or holds a media token, or there is no system turn: the chat
            template drops or refuses it, or is missing.
    """
    from jinja2 import TemplateError

    if not isinstance(text, str):
        raise TypeError(f"expected system to be a text, got {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"expected system to be some text, got {text!r}")
    check_text(processor, text, "system")
    turn = {"role": "system", "content": [{"type": "text", "text": text}]}
    template = processor.apply_chat_template

    def apply_chat_template(conversation: list[Any], **options: Any) -> Any:
        return template([turn, *conversation], **options)

    prompt = ""
    if getattr(processor, "chat_template", None):
        with suppress(TemplateError):  # raised by a template that refuses the role
            prompt = apply_chat_template([{"role": "user", "content": []}], tokenize=False)
    if text.strip() not in prompt:
        raise ValueError(
            f"the prompts of this {type(processor).__name__} have no system turn; write the "
            "instructions into the question instead"
        )
    processor = copy.copy(processor)
    processor.apply_chat_template = apply_chat_template
    return processor


def needs_special_tokens(processor: Any, prompt: str) -> bool:
    """Return whether the tokenizer must add its special tokens to a prompt.

    It must not if the chat template has already written the BOS token: a second one changes the
    prompt.
    """
    bos = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    if not bos:
        return True
    start = prompt.lstrip()
    for token in media_tokens(processor):  # PaliGemma writes placeholders before BOS
        while start.startswith(token):
            start = start.removeprefix(token).lstrip()
    return not start.startswith(bos)
