"""Keep the frame encoder's patches while it embeds frames, so that they can be merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.encoders.base import FrameEncoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PatchKeeper(FrameEncoder):
    """A frame encoder that keeps the patches of the frames of one video, ``2 N P C`` bytes in bf16.

    Args:
        encoder: The encoder that embeds the frames.
        frames: N, the number of frames, which come in order.
        dtype: The dtype of the kept patches.
    """

    def __init__(self, encoder: FrameEncoder, frames: int, dtype: torch.dtype) -> None:
        self.inner, self.name = encoder, encoder.name
        self.done = 0
        self._frames, self.dtype = frames, dtype
        self._patches: Tensor | None = None

    @property
    def dim(self) -> int:  # type: ignore[override]
        """d, the width of the embeddings."""
        return self.inner.dim

    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        embeddings, patches = self.inner.encode_patches(frames)
        if self._patches is None:  # allocated once: joining chunks would take twice the memory
            shape = (self._frames, *patches.shape[1:])
            self._patches = patches.new_empty(shape, dtype=self.dtype)
        self._patches[self.done : self.done + len(patches)] = patches
        self.done += len(patches)
        return embeddings

    def text_notes(self, text: str) -> list[str]:
        return self.inner.text_notes(text)

    def encode_text(self, text: str) -> Tensor:
        return self.inner.encode_text(text)

    @property
    def count(self) -> int:
        """P, the patches of a frame; 0 before the first frame is encoded."""
        return 0 if self._patches is None else int(self._patches.shape[1])

    def all(self) -> Tensor:
        """Return the patches ``[N, P, C]`` of all frames.

        Raises:
            RuntimeError: Not all frames were encoded.
        """
        if self._patches is None or self.done != self._frames:
            raise RuntimeError(f"expected {self._frames} encoded frames, got {self.done}")
        return self._patches

    def restore(self, patches: Tensor) -> None:
        """Set the patches ``[N, P, C]`` of all frames, from a cache of the result of `all`."""
        self._patches, self.done = patches, len(patches)

    def of(self, numbers: Tensor) -> Tensor:
        """Return the patches ``[n, P, C]`` of the frames ``numbers``, ``[n]`` int64.

        Raises:
            RuntimeError: Not all frames were encoded.
        """
        patches = self.all()
        return patches[numbers.to(patches.device)]
