"""Frame encoders: embeddings of frames and of the query, by which selectors choose keyframes.

The paper uses CLIP ViT-B/32 (Eq. 2-3 and section 5.1 of ViLAMP), which is the default of
``vtc.wrap``; any CLIP, SigLIP or SigLIP2 model will do, and so will an object of your own. Models
of timm see frames only: they serve selectors that take no query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FrameEncoder(ABC):
    """Turns frames and text into embeddings of one space.

    Attributes:
        name: What the encoder was loaded from; `load_encoder` takes it again.
        dim: d, the width of the embeddings.
        notes: What the latest `encode_text` did to the text, in words for the report.
    """

    name: str
    dim: int
    notes: list[str]

    @abstractmethod
    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Embed frames.

        Args:
            frames: ``[n, H, W, 3]`` uint8 RGB, on any device; n may be 0.

        Returns:
            ``[n, d]`` float32, L2-normalised, on the encoder's device.
        """

    @abstractmethod
    def encode_text(self, text: str) -> Tensor:
        """Embed a query: ``[d]`` float32, L2-normalised, on the encoder's device.

        Raises:
            ValueError: The encoder knows no text.
        """

    def encode_patches(self, frames: Tensor | NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Embed frames, and give the patches that the embeddings were made of.

        Args:
            frames: As `encode_frames` takes them.

        Returns:
            ``[n, d]``, what `encode_frames` gives, and ``[n, P, C]``, the features of the patches
            after the last layer, in the precision that the encoder computes in.

        Raises:
            ValueError: The encoder has no patches.
        """
        raise ValueError(
            f"encoder {self.name} gives no patches to merge; give it a method encode_patches, or "
            "take a CLIP, SigLIP or timm vision transformer"
        )

    def text_notes(self, text: str) -> list[str]:
        """Return what `encode_text` loses or changes of a text, in words for the report."""
        return []

    def encode_text_raw(self, text: str) -> Tensor:
        """Embed a query without scaling it to length one: ``[d]`` float32.

        Raises:
            ValueError: The encoder gives text embeddings of length one only, or none.
        """
        raise ValueError(
            f"encoder {self.name} has no text embeddings before normalisation, which the merger "
            "takes; give it a method encode_text_raw, or take a CLIP or SigLIP model"
        )


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder is run; checked here, before anything is loaded."""

    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = 32
    long_text: Literal["split", "truncate"] = "split"

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ValueError(f"dtype={self.dtype}: allowed is a floating-point torch.dtype")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: allowed is at least 1")
        if self.long_text not in ("split", "truncate"):
            raise ValueError(f"long_text={self.long_text!r}: allowed are 'split', 'truncate'")
