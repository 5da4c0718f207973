"""What encoders that run a model over frames share: batches and checks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtc.encoders.base import EncoderOptions, FrameEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONVERT = (
    "weights are read from safetensors only, since a pickle can run code; convert it once:"
    " from safetensors.torch import save_file;"
    " save_file({{k: v.contiguous() for k, v in torch.load({!r}, weights_only=True).items()}},"
    " 'model.safetensors')"
)
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


class ImageEncoder(FrameEncoder):
    """A model that turns frames into embeddings which are compared by their cosine.

    Args:
        model: Put into evaluation mode, moved and cast here.
        name: What the encoder was loaded from.
        dim: d, the width of the embeddings.
        options: Device, dtype and batch size.
    """

    def __init__(
        self, model: torch.nn.Module, *, name: str, dim: int, options: EncoderOptions
    ) -> None:
        self.name = name
        self.dim = dim
        self.notes = []
        self._batch_size = options.batch_size
        self._model: Any = model.eval().requires_grad_(False)
        self.to(options.device, options.dtype)

    @abstractmethod
    def _image_features(self, frames: Tensor) -> Tensor:
        """``[n, 3, H, W]`` uint8 RGB on the encoder's device to ``[n, d]`` features."""

    @abstractmethod
    def _image_patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the features ``[n, P, C]`` of the patches that they are made of."""

    def to(self, device: str | torch.device, dtype: torch.dtype) -> None:
        """Move and cast the weights; embeddings come back on ``device``, in float32."""
        self._device = torch.device(device)
        self._dtype = dtype
        self._model.to(device=self._device, dtype=dtype)

    # Not inference_mode: its tensors could not be saved for the backward pass of a trained merger.
    @torch.no_grad()
    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        embeddings = [torch.empty(0, self.dim, device=self._device)]
        for pixels in self._batches(frames):
            embeddings.append(F.normalize(self._image_features(pixels).float(), dim=-1))
        return torch.cat(embeddings)

    @torch.no_grad()
    def encode_patches(self, frames: Tensor | NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        embeddings, patches = [torch.empty(0, self.dim, device=self._device)], []
        for pixels in self._batches(frames):
            features, dense = self._image_patches(pixels)
            embeddings.append(F.normalize(features.float(), dim=-1))
            patches.append(dense)
        if not patches:
            raise ValueError("no frames were given, so there are no patches of them")
        return torch.cat(embeddings), torch.cat(patches)

    def _batches(self, frames: Tensor | NDArray[np.uint8]) -> Iterator[Tensor]:
        """``[n, 3, H, W]`` on the encoder's device, a few frames at a time."""
        _check_frames(frames)
        for start in range(0, len(frames), self._batch_size):
            batch = frames[start : start + self._batch_size]
            if isinstance(batch, np.ndarray):
                # A copy of one batch: torch takes no negative strides and warns of read-only ones.
                batch = torch.from_numpy(batch.copy())
            yield batch.to(self._device).permute(0, 3, 1, 2)


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
