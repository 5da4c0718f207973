"""Inputs of ``generate`` for a conversation with videos, images and text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vtc.interfaces.prompts import check_text, media_tokens, needs_special_tokens
from vtc.pipeline.feed import VideoRequest
from vtc.pipeline.modules import input_device
from vtc.video import VideoSource
from vtc.wrapped.access import toolkit_of


@dataclass(frozen=True)
class Turn:
    """One message.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        items: Texts, RGB images of PIL and video sources, in their order.
    """

    role: str
    items: list[Any]

    @property
    def text(self) -> str:
        """The texts, one per line."""
        return "\n".join(item for item in self.items if isinstance(item, str)).strip()


def conversation_inputs(
    model: Any, processor: Any, turns: Sequence[Turn], query: str | None = None
) -> dict[str, Any]:
    """Return the arguments of ``generate`` for a conversation, as one row.

    Args:
        query: The query for the selector, in place of the text of the last turn.

    Raises:
        ValueError: The family does not take such a conversation.
    """
    items = [item for turn in turns for item in turn.items]
    videos = [item for item in items if isinstance(item, VideoSource)]
    pictures = [item for item in items if not isinstance(item, (str, VideoSource))]
    for text in [item for item in items if isinstance(item, str)]:
        check_text(processor, text, "text")
    query = query or turns[-1].text
    if not query:
        raise ValueError("expected the last message to have some text besides videos and images")
    device = input_device(model)
    if not videos:
        prompt = _chat_prompt(processor, turns, video=[])
        extra = {"images": pictures} if pictures else {}
        special = needs_special_tokens(processor, prompt)
        batch = processor(
            text=[prompt], return_tensors="pt", add_special_tokens=special, **extra
        ).to(device, model.dtype)
        stills = toolkit_of(model).adapter.modality == "image" and pictures
        return {**batch, "vtc_frames": 0} if stills else dict(batch)
    adapter = toolkit_of(model).adapter
    if pictures and adapter.modality == "image":
        raise ValueError("this model reads videos as images, so it takes no images besides them")
    prompt = _prompt_with_videos(model, processor, turns, videos)
    pixels: dict[str, Any] = {}
    if pictures:
        prompt, pixels = _write_pictures(processor, prompt, pictures)
    tokens = processor.tokenizer(
        [prompt], add_special_tokens=needs_special_tokens(processor, prompt), return_tensors="pt"
    ).to(device)
    ids = tokens["input_ids"]
    inputs = {
        **adapter.text_inputs(model, ids),
        "input_ids": ids,
        "attention_mask": tokens["attention_mask"],
        "vtc_videos": [VideoRequest(source, processor) for source in videos],
        "vtc_query": query,
    }
    if pictures:
        types = pixels.pop("mm_token_type_ids", None)
        if types is not None:
            kinds = (processor.image_token_id, 1), (adapter.video_token_id(model), 2)
            inputs["mm_token_type_ids"] = sum((ids == token).long() * kind for token, kind in kinds)
        inputs |= {
            name: value.to(device, model.dtype if value.is_floating_point() else None)
            for name, value in pixels.items()
        }
    return inputs


def _prompt_with_videos(
    model: Any, processor: Any, turns: Sequence[Turn], videos: Sequence[VideoSource]
) -> str:
    """Write the conversation, with each video in the form of the family's adapter."""
    adapter = toolkit_of(model).adapter
    if len(turns) == 1 and _kinds(turns[0].items) == [VideoSource, str]:
        return str(adapter.prompt(processor, turns[0].text, videos[0]))
    for video in ([{"type": "video"}], [{"type": "image"}]):
        placeholder = _placeholder(processor, _chat_prompt(processor, [_EXAMPLE], video))
        if placeholder is None:
            continue
        before, mark, after = placeholder
        texts = [adapter.prompt(processor, _EXAMPLE.text, source) for source in videos]
        if all(text.startswith(before) and text.endswith(after) for text in texts):
            written = iter([text[len(before) : len(text) - len(after)] for text in texts])
            pieces = _chat_prompt(processor, turns, video).split(mark)
            if len(pieces) == len(videos) + 1:
                return pieces[0] + "".join(next(written) + piece for piece in pieces[1:])
    raise ValueError(
        "this family's prompts take one message with one video and one question; send these only"
    )


_EXAMPLE = Turn("user", [None, "Why?"])


def _placeholder(processor: Any, prompt: str) -> tuple[str, str, str] | None:
    """Split a prompt at its only video or image placeholder, including the marks around it."""
    tokens = "|".join(re.escape(token) for token in media_tokens(processor))
    marks = [*re.finditer(f"(?:{tokens})+", prompt)] if tokens else []
    if not marks:
        return None
    start, end = marks[0].start(), marks[-1].end()
    return prompt[:start], prompt[start:end], prompt[end:]


def _chat_prompt(processor: Any, turns: Iterable[Turn], video: list[dict[str, str]]) -> str:
    """Write a conversation with the processor's chat template.

    Raises:
        ValueError: There is no chat template, or it refuses this order of roles.
    """
    from jinja2 import TemplateError

    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"this model's {type(processor).__name__} has no chat template, so it takes one "
            "message with one video, then a question"
        )
    messages = [
        {"role": turn.role, "content": [part for item in turn.items for part in _part(item, video)]}
        for turn in turns
    ]
    try:
        prompt: str = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    except TemplateError as error:
        raise ValueError(f"the model's chat template refuses these messages: {error}") from error
    return prompt


def _part(item: Any, video: list[dict[str, str]]) -> list[dict[str, str]]:
    if isinstance(item, str):
        return [{"type": "text", "text": item}]
    return video if item is None or isinstance(item, VideoSource) else [{"type": "image"}]


def _kinds(items: Sequence[Any]) -> list[type]:
    return [type(item) for item in items]


def _write_pictures(
    processor: Any, prompt: str, pictures: Sequence[Any]
) -> tuple[str, dict[str, Any]]:
    """Expand the placeholders of images as the stock processor does; return the pixels too.

    The stock processor refuses a prompt that also has placeholders of a video.
    """
    token = processor.image_token
    pieces = prompt.split(token)
    if len(pieces) != len(pictures) + 1:
        raise ValueError("this family's chat template does not take images besides a video")
    batch = dict(
        processor(text=[token] * len(pictures), images=pictures, padding=True, return_tensors="pt")
    )
    rows = batch.pop("input_ids")
    del batch["attention_mask"]
    counts = (rows == processor.image_token_id).sum(1).tolist()
    written = [token * count + piece for count, piece in zip(counts, pieces[1:], strict=True)]
    return pieces[0] + "".join(written), batch
