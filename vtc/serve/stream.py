"""Stream the text of an answer while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class TextStream(BaseStreamer):  # type: ignore[misc]
    """Emits text as soon as no later token can change it, up to a stop string.

    All pieces together are the answer that ``vtc.ask`` returns: without special tokens and without
    white space at its ends.

    Args:
        tokenizer: The model's tokenizer.
        stops: Strings that end the answer and are not part of it.
        emit: Called with each piece of text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], emit: Callable[[str], None]) -> None:
        self._tokenizer, self._stops, self._emit = tokenizer, stops, emit
        self._is_prompt = True
        self._ids: list[int] = []
        self._taken = 0  # the number of characters of their text that were processed
        self._held = ""  # possibly the start of a stop string, or white space at the end
        self._begun = False
        self.stopped = False

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then the new tokens ``[n]``."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._ids += value.flatten().tolist()
        text = self._text()
        if text.endswith("\ufffd"):
            return  # an incomplete character
        new, self._taken = text[self._taken :], len(text)
        self._take(new)

    @property
    def tokens(self) -> int:
        """The number of new tokens."""
        return len(self._ids)

    def end(self) -> None:
        """Emit the rest of the text."""
        self._take(self._text()[self._taken :], is_end=True)

    def _text(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _take(self, new: str, is_end: bool = False) -> None:
        if self.stopped:
            return
        text = self._held + new
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, text = True, text[: min(ends)]
        certain = len(text.rstrip())
        if not ends and not is_end:
            certain = min([certain, *(_start_of(stop, text) for stop in self._stops)])
        self._held, text = text[certain:], text[:certain]
        if not self._begun:
            text = text.lstrip()
        if text:
            self._begun = True
            self._emit(text)


def _start_of(stop: str, text: str) -> int:
    """Return where a stop string may start at the end of ``text``; its length if nowhere."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return len(text) - length
    return len(text)


class StopsAtText(StoppingCriteria):  # type: ignore[misc]
    """Ends the answer at a stop string."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self._stream.stopped, device=input_ids.device)
