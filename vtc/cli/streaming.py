"""Print an answer while the model generates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TextStreamer

from vtc.cli.output import printable


class AnswerStream(TextStreamer):  # type: ignore[misc]
    """A streamer of ``generate`` that prints the words of one answer to stdout.

    Args:
        tokenizer: The model's tokenizer.
        begin: Called once, before the model reads its prompt.
    """

    def __init__(self, tokenizer: Any, begin: Callable[[], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._begin: Callable[[], None] | None = begin
        self.is_empty = True

    def put(self, value: Any) -> None:
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = text.lstrip() if self.is_empty else text
        self.is_empty = self.is_empty and not text
        print(printable(text), end="", flush=True)
