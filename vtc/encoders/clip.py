"""The base class of encoders with an image and a text tower, which embed texts of any length."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vtc.encoders.base import EncoderOptions
from vtc.encoders.image import ImageEncoder


class ClipEncoder(ImageEncoder):
    """An image tower and a text tower whose embeddings are compared by their cosine.

    Args:
        model: The module with both towers. It is put into evaluation mode, moved and cast.
        name: The name or folder that the encoder was loaded from.
        dim: d, the width of the embeddings.
        context: The maximum number of tokens of a text, special tokens included.
        options: Device, dtype, batch size, and whether long texts are split or truncated.
    """

    def __init__(
        self, model: torch.nn.Module, *, name: str, dim: int, context: int, options: EncoderOptions
    ) -> None:
        super().__init__(model, name=name, dim=dim, options=options)
        self.context = context
        self._long_text = options.long_text

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor:
        """Return the projected features ``[m, d]`` of m texts; drop tokens beyond the context."""

    @abstractmethod
    def _count_tokens(self, text: str) -> int:
        """Return the number of tokens of a whole text, special tokens included."""

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        parts = F.normalize(self._embed_parts(text), dim=-1)
        return F.normalize(parts.mean(dim=0), dim=0)

    @torch.no_grad()
    def encode_text_raw(self, text: str) -> Tensor:
        return self._embed_parts(text).mean(dim=0)

    def text_notes(self, text: str) -> list[str]:
        count = self._count_tokens(text)
        if count <= self.context:
            return []
        parts = len(self._parts(text))
        change = f"split into {parts} parts and averaged" if parts > 1 else "truncated"
        return [f"query of {count} tokens is longer than the encoder's {self.context}: {change}"]

    def _parts(self, text: str) -> list[str]:
        """Split a text into parts that fit into the context, unless it fits or is truncated."""
        if self._long_text == "truncate" or self._count_tokens(text) <= self.context:
            return [text]
        return split_text(text, lambda part: self._count_tokens(part) <= self.context)

    def _embed_parts(self, text: str) -> Tensor:
        """Return the features ``[m, d]`` float32 of the m parts of a text, not normalised."""
        if not isinstance(text, str):
            raise TypeError(f"expected text to be a str, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"expected text to be a question, got {text!r}; or select without one")
        parts = self._parts(text)
        embeddings = [
            self._text_features(parts[i : i + self._batch_size]).float()
            for i in range(0, len(parts), self._batch_size)
        ]
        return torch.cat(embeddings)


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Cut text into consecutive parts that fit, each as long as possible.

    Cuts are made at white space, or within a word if the word alone does not fit, as in languages
    written without spaces.

    >>> split_text("one two three", lambda part: len(part) <= 8)
    ['one two', 'three']
    """
    parts = []
    rest = text.strip()
    while rest:
        end = _longest_prefix(rest, fits)
        if end < len(rest):
            spaces = [i for i in range(1, end + 1) if rest[i].isspace()]
            end = spaces[-1] if spaces else end
        parts.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return parts


def _longest_prefix(text: str, fits: Callable[[str], bool]) -> int:
    """Return the number of leading characters that fit, found by bisection; at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
