"""The interface of frame encoders, which embed frames and the query in one space.

Selectors choose keyframes by these embeddings. The default of ``vtc.wrap`` is CLIP ViT-B/32, as in
the paper (Eq. 2-3 and section 5.1 of ViLAMP). Any CLIP, SigLIP, SigLIP2 or BLIP model works, and so
does an object with the two abstract methods. Models of timm embed only frames, so they work with
selectors that take no query.
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
    """Embeds frames and text in one space. Calls have no side effects: threads can share one.

    Attributes:
        name: The name or folder that the encoder was loaded from, as `load_encoder` takes it.
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
            TypeError: The frames are not a tensor or array, or not uint8.
            ValueError: They have another shape.
        """

    @abstractmethod
    def encode_text(self, text: str) -> Tensor:
        """Embed a query: ``[d]`` float32, L2-normalised, on the encoder's device.

        Raises:
            TypeError: The text is not a str.
            ValueError: The text is empty, or the encoder embeds frames only.
        """

    def text_notes(self, text: str) -> list[str]:
        """Return notes for the report if `encode_text` splits or truncates a text."""
        return []

    def fingerprint(self) -> dict[str, str] | None:
        """Return everything the embeddings depend on except the frames; None if unknown.

        Cached embeddings are used only if all these values are equal: the weights, the
        preprocessing, the dtype, the type of the device.
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
    """Options of an encoder, checked before anything is loaded."""

    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = 32
    long_text: Literal["split", "truncate"] = "split"

    def __post_init__(self) -> None:
        is_float = isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point
        require(is_float, "dtype", self.dtype, "a floating-point torch.dtype")
        is_whole = isinstance(self.batch_size, int) and self.batch_size >= 1
        require(is_whole, "batch_size", self.batch_size, "a whole number of at least 1")
        is_mode = self.long_text in ("split", "truncate")
        require(is_mode, "long_text", self.long_text, "'split' or 'truncate'")
