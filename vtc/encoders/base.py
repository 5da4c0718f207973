"""The interface of frame encoders, which embed frames and the query in one space.

Selectors choose keyframes by these embeddings. The paper uses CLIP ViT-B/32 (Eq. 2-3 and section
5.1 of ViLAMP), the default of ``vtc.wrap``; any CLIP, SigLIP or SigLIP2 model works, and so does an
object with the two abstract methods. Models of timm embed frames only: they serve selectors that
take no query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vtc.interfaces.part import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FrameEncoder(ABC):
    """Embeds frames and text in one space. Calls change nothing, so threads can share an encoder.

    Attributes:
        name: What the encoder was loaded from; `load_encoder` takes it again.
        dim: d, the width of the embeddings.
    """

    name: str
    dim: int

    @abstractmethod
    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Embed frames.

        Args:
            frames: ``[n, H, W, 3]`` uint8 RGB, on any device; n may be 0.

        Returns:
            ``[n, d]`` float32, L2-normalised, on the encoder's device.

        Raises:
            TypeError: The frames are no tensor or array, or not uint8.
            ValueError: They have another shape.
        """

    @abstractmethod
    def encode_text(self, text: str) -> Tensor:
        """Embed a query: ``[d]`` float32, L2-normalised, on the encoder's device.

        Raises:
            TypeError: The text is no str.
            ValueError: The text is empty, or the encoder embeds frames only.
        """

    def text_notes(self, text: str) -> list[str]:
        """Return what `encode_text` drops or changes of a text, in sentences for the report."""
        return []

    def fingerprint(self) -> dict[str, str] | None:
        """Return what the embeddings depend on, besides the frames; None where that is unknown.

        A cache of embeddings is used only where every value is the same: the weights, how frames
        are prepared, the dtype, the kind of device.
        """
        return None

    def encode_patches(self, frames: Tensor | NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Embed frames, and return the patches of the last layer as well.

        Args:
            frames: ``[n, H, W, 3]`` uint8 RGB, on any device.

        Returns:
            ``[n, d]`` float32, the result of `encode_frames`, and ``[n, P, C]``, the patches after
            the last layer, in the encoder's dtype.

        Raises:
            ValueError: The encoder has no patches.
        """
        raise ValueError(
            f"encoder {self.name} has no patches to merge; add a method encode_patches, or use a "
            "CLIP, SigLIP or timm vision transformer"
        )

    def encode_text_raw(self, text: str) -> Tensor:
        """Embed a query without scaling it to length one: ``[d]`` float32.

        Raises:
            ValueError: The encoder has only normalised text embeddings, or none.
        """
        raise ValueError(
            f"encoder {self.name} has no text embeddings before normalisation, which the merger "
            "takes; add a method encode_text_raw, or use a CLIP or SigLIP model"
        )


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder runs; checked before anything is loaded."""

    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = 32
    long_text: Literal["split", "truncate"] = "split"

    def __post_init__(self) -> None:
        is_float = isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point
        require(is_float, "dtype", self.dtype, "a floating-point torch.dtype")
        whole = isinstance(self.batch_size, int) and self.batch_size >= 1
        require(whole, "batch_size", self.batch_size, "a whole number of at least 1")
        known = self.long_text in ("split", "truncate")
        require(known, "long_text", self.long_text, "'split' or 'truncate'")
