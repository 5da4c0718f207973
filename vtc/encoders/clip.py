"""What the encoders of two-tower models (CLIP, SigLIP) share: a text, however long."""

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
        model: The module with both towers; put into evaluation mode, moved and cast here.
        name: What the encoder was loaded from.
        dim: d, the width of the embeddings.
        context: The most tokens of a text, special tokens included.
        options: Device, dtype, batch size and what happens to long text.
    """

    def __init__(
        self, model: torch.nn.Module, *, name: str, dim: int, context: int, options: EncoderOptions
    ) -> None:
        super().__init__(model, name=name, dim=dim, options=options)
        self.context = context
        self._long_text = options.long_text

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor:
        """Texts to ``[m, d]`` projected features; tokens beyond the context are dropped."""

    @abstractmethod
    def _count_tokens(self, text: str) -> int:
        """The length of the whole text in tokens, special tokens included."""

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        parts = F.normalize(self._embed_parts(text), dim=-1)
        return F.normalize(parts.mean(dim=0), dim=0)

    @torch.no_grad()
    def encode_text_raw(self, text: str) -> Tensor:
        return self._embed_parts(text).mean(dim=0)

    def _embed_parts(self, text: str) -> Tensor:
        """The features ``[m, d]`` float32 of a text in m parts, as the text tower gives them."""
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}; expected is a str")
        if not text.strip():
            raise ValueError(f"text={text!r} is empty; ask something, or select without a query")
        parts = [text]
        self.notes = []
        if (count := self._count_tokens(text)) > self.context:
            what = "truncated"
            if self._long_text == "split":
                parts = split_text(text, lambda part: self._count_tokens(part) <= self.context)
                what = f"split into {len(parts)} parts and averaged"
            self.notes = [
                f"query of {count} tokens is longer than the encoder's {self.context}: {what}"
            ]
        embeddings = [
            self._text_features(parts[i : i + self._batch_size]).float()
            for i in range(0, len(parts), self._batch_size)
        ]
        return torch.cat(embeddings)


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Cut text into consecutive parts that fit, each as long as possible.

    Cuts are made at white space; within a word only where the word alone does not fit, as in
    languages written without spaces.

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
    """The number of leading characters that fit, by bisection; at least one, to get on."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
