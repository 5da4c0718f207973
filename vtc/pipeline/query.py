"""What a video is read for: the text of the last user turn, or what the caller says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.pipeline.modules import active_module, input_device

if TYPE_CHECKING:
    from vtc.pipeline.toolkit import Toolkit


class Query:
    """The query of one row, as text and as the vector that the merger takes."""

    def __init__(self, text: str | None, model: Any, toolkit: Toolkit, processor: Any) -> None:
        self.text = text
        self._model, self._toolkit, self._processor = model, toolkit, processor
        self._for_merger: Tensor | None = None

    def for_merger(self, like: Tensor) -> Tensor | None:
        """``[Dq]`` on the device and of the dtype of ``like``, or None without a text."""
        source = active_module(self._toolkit.merger).query_source
        if source is None or self.text is None:
            return None
        if self._for_merger is None:
            self._for_merger = self._embed(source, self.text)
        return self._for_merger.to(like.device, like.dtype)

    def _embed(self, source: str, text: str) -> Tensor:
        encoder = self._toolkit.encoder
        if source == "frame_encoder":
            return encoder.encode_text(text)
        if source == "frame_encoder_raw":
            return encoder.encode_text_raw(text)
        return self._language_model_embedding(text)

    def _language_model_embedding(self, text: str) -> Tensor:
        if self._processor is None:
            name = self._toolkit.name_of(self._toolkit.merger)
            raise ValueError(
                f"merger {name!r} takes the query as embeddings of the language model, which "
                "needs the tokenizer: pass processor=... to vtc.wrap"
            )
        ids = _tokenizer(self._processor)(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the query {text!r} has no tokens; give a query with some text")
        table = self._model.get_input_embeddings()
        embedded: Tensor = table(torch.tensor(ids, device=input_device(self._model)))
        return embedded.mean(0)


def row_texts(
    model: Any, toolkit: Toolkit, inputs: Mapping[str, Any], processors: list[Any]
) -> list[str | None]:
    """The text of each row's query: ``vtc_query`` where given, else its last user turn."""
    ids = inputs["input_ids"]
    given = inputs.get("vtc_query")
    if given is not None:
        texts = [given] * len(ids) if isinstance(given, str) else list(given)
        filled = all(isinstance(text, str) and text.strip() for text in texts)
        if len(texts) != len(ids) or not filled:
            raise ValueError(
                f"vtc_query={given!r}: allowed is some text, or one for each of {len(ids)} rows"
            )
        return texts
    drop = torch.tensor([toolkit.adapter.video_token_id(model), *_image_token(model)])
    mask, labels = inputs.get("attention_mask"), inputs.get("labels")
    texts = []
    for row, processor in enumerate(processors):
        if processor is None:
            texts.append(None)
            continue
        keep = ~torch.isin(ids[row], drop.to(ids.device))
        if mask is not None:
            keep &= mask[row].bool()
        prompt = keep if labels is None else keep & (labels[row] == -100)
        turn = last_user_turn(processor, ids[row][keep], ids[row][prompt])
        texts.append(turn and toolkit.adapter.question(turn).strip() or None)
    return texts


def last_user_turn(processor: Any, ids: Tensor, prompt: Tensor) -> str | None:
    """The text of the last user turn, without special tokens.

    Turns are told apart by the processor's own chat template. A prompt without its marks is one
    turn by itself.

    Args:
        ids: ``[L]``, the row without placeholders and padding.
        prompt: The part of it that is not an answer to learn.
    """
    tokenizer = _tokenizer(processor)
    marks = _turn_marks(processor)
    text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    if marks is not None and marks[0] in text:
        text = text.rpartition(marks[0])[2].partition(marks[1])[0]
    else:
        text = tokenizer.decode(prompt.tolist(), skip_special_tokens=False)
    for special in tokenizer.all_special_tokens:
        text = text.replace(special, " ")
    return text.strip() or None


def _turn_marks(processor: Any) -> tuple[str, str] | None:
    """What the chat template writes before and after the text of a user turn."""
    if not getattr(processor, "chat_template", None):
        return None
    first, answer, second = "\x01", "\x02", "\x03"
    turns = [("user", first), ("assistant", answer), ("user", second)]
    written: str = processor.apply_chat_template(
        [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns],
        tokenize=False,
    )
    start, _, rest = written.partition(first)
    to_answer, _, rest = rest.partition(answer)
    to_second, _, end = rest.partition(second)
    opening = os.path.commonprefix([start[::-1], to_second[::-1]])[::-1].rstrip()
    closing = os.path.commonprefix([to_answer, end]).strip() or to_answer.strip()
    return (opening, closing) if opening and closing else None


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def _image_token(model: Any) -> list[int]:
    token = getattr(model.config, "image_token_id", None)
    return [] if token is None else [int(token)]
