"""The base class of encoders that run a model on frames: batches and checks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtc.cache.hashing import module_hash, text_hash
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
    """A vision model whose embeddings are compared by their cosine.

    Args:
        model: The vision model. It is put into evaluation mode, moved and cast.
        name: The name or folder that the encoder was loaded from.
        dim: d, the width of the embeddings.
        options: Device, dtype and batch size.
    """

    def __init__(
        self, model: torch.nn.Module, *, name: str, dim: int, options: EncoderOptions
    ) -> None:
        self.name = name
        self.dim = dim
        self._batch_size = options.batch_size
        self._model: Any = model.eval().requires_grad_(False)
        self.to(options.device, options.dtype)

    @abstractmethod
    def _image_features(self, frames: Tensor) -> Tensor:
        """Return the features ``[n, d]`` of ``[n, 3, H, W]`` uint8 RGB on the CPU.

        Frames are always resized on the CPU: torchvision's result on a GPU differs, so selectors
        would choose other keyframes there.
        """

    @abstractmethod
    def _image_patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features ``[n, d]``, and the patches ``[n, P, C]`` of the last layer."""

    @abstractmethod
    def _preparation(self) -> str:
        """Return a description of the preprocessing, for the fingerprint."""

    def fingerprint(self) -> dict[str, str] | None:
        weights = module_hash(self._model)
        if weights is None:
            return None
        return {
            "encoder": self.name,
            "weights": weights,
            "preparation": text_hash(self._preparation()),
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": self._device.type,
        }

    def to(self, device: str | torch.device, dtype: torch.dtype) -> None:
        """Move and cast the weights. Embeddings are returned on ``device``, in float32."""
        self._device = torch.device(device)
        self._dtype = dtype
        self._model.to(device=self._device, dtype=dtype)

    # Not inference_mode: a trained merger could not save its tensors for the backward pass.
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
            raise ValueError("expected at least one frame, got none")
        return torch.cat(embeddings), torch.cat(patches)

    def _batches(self, frames: Tensor | NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield ``[n, 3, H, W]`` uint8 on the CPU, ``batch_size`` frames at a time."""
        _check_frames(frames)
        for start in range(0, len(frames), self._batch_size):
            batch = frames[start : start + self._batch_size]
            if isinstance(batch, np.ndarray):
                # Copy, since torch takes no negative strides and warns about read-only arrays.
                batch = torch.from_numpy(batch.copy())
            # The profiler uses frames on the meta device, which cannot be copied to the CPU.
            yield (batch if batch.is_meta else batch.cpu()).permute(0, 3, 1, 2)


def _check_frames(frames: object) -> None:
    if not isinstance(frames, Tensor | np.ndarray):
        raise TypeError(
            "expected frames to be a torch.Tensor or numpy array [n, H, W, 3] uint8, got "
            f"{type(frames).__name__}"
        )
    if frames.dtype not in (torch.uint8, np.uint8):
        raise TypeError(f"expected frames to be uint8, RGB values of 0 to 255, got {frames.dtype}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape[1:]:
        raise ValueError(
            f"expected frames to be [n, H, W, 3], RGB last, got the shape {list(frames.shape)}"
        )
