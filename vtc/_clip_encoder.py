"""What the encoders of two-tower models (CLIP, SigLIP) share: batches, checks and long text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtc.frame_encoder import EncoderOptions, FrameEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONVERT = (
    "weights are read from safetensors only, since a pickle can run code; convert it once:"
    " from safetensors.torch import save_file;"
    " save_file({{k: v.contiguous() for k, v in torch.load({!r}, weights_only=True).items()}},"
    " 'model.safetensors')"
)
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


class ClipEncoder(FrameEncoder):
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
        self.name = name
        self.dim = dim
        self.context = context
        self.notes = []
        self._batch_size = options.batch_size
        self._long_text = options.long_text
        self._model: Any = model.eval().requires_grad_(False)
        self.to(options.device, options.dtype)

    @abstractmethod
    def _image_features(self, frames: Tensor) -> Tensor:
        """``[n, 3, H, W]`` uint8 RGB on the encoder's device to ``[n, d]`` projected features."""

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor:
        """Texts to ``[m, d]`` projected features; tokens beyond the context are dropped."""

    @abstractmethod
    def _count_tokens(self, text: str) -> int:
        """The length of the whole text in tokens, special tokens included."""

    def to(self, device: str | torch.device, dtype: torch.dtype) -> None:
        """Move and cast the weights; embeddings come back on ``device``, in float32."""
        self._device = torch.device(device)
        self._dtype = dtype
        self._model.to(device=self._device, dtype=dtype)

    # Not inference_mode: its tensors could not be saved for the backward pass of a trained merger.
    @torch.no_grad()
    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        _check_frames(frames)
        embeddings = [torch.empty(0, self.dim, device=self._device)]
        for start in range(0, len(frames), self._batch_size):
            batch = frames[start : start + self._batch_size]
            if isinstance(batch, np.ndarray):
                # A copy of one batch: torch takes no negative strides and warns of read-only ones.
                batch = torch.from_numpy(batch.copy())
            features = self._image_features(batch.to(self._device).permute(0, 3, 1, 2))
            embeddings.append(F.normalize(features.float(), dim=-1))
        return torch.cat(embeddings)

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
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
            F.normalize(self._text_features(parts[i : i + self._batch_size]).float(), dim=-1)
            for i in range(0, len(parts), self._batch_size)
        ]
        return F.normalize(torch.cat(embeddings).mean(dim=0), dim=0)


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


def _check_frames(frames: object) -> None:
    if not isinstance(frames, Tensor | np.ndarray):
        raise TypeError(
            f"frames are {type(frames).__name__}; expected is a torch.Tensor or numpy array"
            " [n, H, W, 3] uint8"
        )
    if frames.dtype not in (torch.uint8, np.uint8):
        raise TypeError(f"frames are {frames.dtype}; expected is uint8, RGB values of 0 to 255")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape[1:]:
        raise ValueError(
            f"frames have the shape {list(frames.shape)}; expected is [n, H, W, 3], RGB last"
        )
