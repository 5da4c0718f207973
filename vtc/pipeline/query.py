"""The query of each row: ``vtc_query``, or the last user turn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.pipeline.selection import embed_query

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.pipeline.call import Call


class Query:
    """The query of one row, as text and as embeddings.

    Each embedding is computed once, on first use by the selector or the merger, for all videos of
    the row.
    """

    def __init__(self, text: str | None, call: Call, processor: Any) -> None:
        self.text = text
        self._call, self._processor = call, processor
        self._embeddings: dict[tuple[int, str], Tensor] = {}

    def for_selector(self) -> Tensor:
        """Return the frame encoder's embedding ``[d]`` float32, L2-normalised, without gradient."""
        call, key = self._call, (id(self._call.selector_encoder), "frame_encoder")
        if key not in self._embeddings:
            self._embeddings[key] = embed_query(
                call.selector_encoder, self.text or "", call.recorder
            )
        return self._embeddings[key]

    def for_merger(self, like: Tensor) -> Tensor | None:
        """Return the embedding ``[Dq]`` with the device and dtype of ``like``; None without text.

        Raises:
            ValueError: The merger needs the tokenizer and there is no processor, or the query has
                no tokens.
        """
        source = self._call.merger.query_source
        if source is None or self.text is None:
            return None
        return self._merger_embedding(self._call.encoder, source).to(like.device, like.dtype)

    def _merger_embedding(self, encoder: FrameEncoder, source: str) -> Tensor:
        key = (0 if source == "language_model" else id(encoder), source)
        if key not in self._embeddings:
            text = self.text or ""
            if source != "language_model":
                self._call.recorder.warn(*encoder.text_notes(text))
            if source == "frame_encoder":
                self._embeddings[key] = encoder.encode_text(text)
            elif source == "frame_encoder_raw":
                self._embeddings[key] = encoder.encode_text_raw(text)
            else:
                self._embeddings[key] = self._language_model_embedding(text)
        return self._embeddings[key]

    def _language_model_embedding(self, text: str) -> Tensor:
        """Return ``[D]``, the mean of the language model's input embeddings of the text."""
        call = self._call
        if self._processor is None:
            raise ValueError(
                f"merger {call.merger_name!r} takes the query as embeddings of the language model, "
                "which needs the tokenizer: pass processor=... to vtc.wrap"
            )
        ids = _tokenizer(self._processor)(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the query {text!r} has no tokens; give a query with some text")
        table = call.model.get_input_embeddings()
        embeddings: Tensor = table(torch.tensor(ids, device=call.device))
        return embeddings.mean(0)


def make_queries(call: Call, processors: Sequence[Any]) -> list[Query]:
    """Return the query of each row; its embeddings are computed on first use.

    Args:
        processors: The processor of each row, or None.
    """
    texts: list[str | None] = [None] * len(processors)
    if call.needs_query or call.inputs.get("vtc_query") is not None:
        texts = row_texts(call, processors)
    return [Query(text, call, processor) for text, processor in zip(texts, processors, strict=True)]


def row_texts(call: Call, processors: Sequence[Any]) -> list[str | None]:
    """Return the text of each row's query: ``vtc_query``, or else its last user turn.

    Raises:
        ValueError: ``vtc_query`` is neither a text nor one text per row.
    """
    inputs, ids = call.inputs, call.inputs["input_ids"]
    query = inputs.get("vtc_query")
    if query is not None:
        texts = [query] * len(ids) if isinstance(query, str) else list(query)
        filled = all(isinstance(text, str) and text.strip() for text in texts)
        if len(texts) != len(ids) or not filled:
            raise ValueError(
                f"expected vtc_query to be a text, or one for each of {len(ids)} rows, "
                f"got {query!r}"
            )
        return texts
    placeholders = [call.adapter.video_token_id(call.model), *image_tokens(call.model)]
    drop = torch.tensor(placeholders, device=ids.device)
    mask, labels = inputs.get("attention_mask"), inputs.get("labels")
    texts = []
    for row, processor in enumerate(processors):
        if processor is None:
            texts.append(None)
            continue
        keep = ~torch.isin(ids[row], drop)
        if mask is not None:
            keep &= mask[row].bool()
        prompt = keep if labels is None else keep & (labels[row] == -100)
        turn = last_user_turn(processor, ids[row][keep], ids[row][prompt])
        texts.append(turn and call.adapter.question(turn).strip() or None)
    return texts


def last_user_turn(processor: Any, ids: Tensor, prompt: Tensor) -> str | None:
    """Return the text of the last user turn, without special tokens.

    The processor's chat template shows where turns begin and end. A prompt without its marks
    counts as one turn.

    Args:
        ids: ``[L]`` int64, the row without placeholders and padding.
        prompt: ``[L']`` int64, ``ids`` without the answer to learn.
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
    """Return the strings that the chat template writes before and after a user's text."""
    if not getattr(processor, "chat_template", None):
        return None
    first, answer, second = "\x01", "\x02", "\x03"
    turns = [("user", first), ("assistant", answer), ("user", second)]
    prompt: str = processor.apply_chat_template(
        [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns],
        tokenize=False,
    )
    start, _, rest = prompt.partition(first)
    to_answer, _, rest = rest.partition(answer)
    to_second, _, end = rest.partition(second)
    opening = os.path.commonprefix([start[::-1], to_second[::-1]])[::-1].rstrip()
    closing = os.path.commonprefix([to_answer, end]).strip() or to_answer.strip()
    return (opening, closing) if opening and closing else None


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def image_tokens(model: Any) -> list[int]:
    """Return the id of the placeholder of images, if the family has one."""
    token = getattr(model.config, "image_token_id", None)
    return [] if token is None else [int(token)]
