"""Frame embeddings for tests of selectors, and a counter of the memory that selectors use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def scene_embeddings(
    frames: int, dim: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Make embeddings of scenes of five frames, with cosines above and below 0.85.

    Returns:
        The embeddings ``[N, d]``, not normalised, and a random query ``[d]``.
    """
    generator = torch.Generator().manual_seed(seed)
    scenes = torch.randn(-(-frames // 5), dim, generator=generator).repeat_interleave(5, 0)
    noise = torch.randn(frames, dim, generator=generator)
    embeddings = scenes[:frames] + 0.4 * noise
    return embeddings.to(dtype), torch.randn(dim, generator=generator).to(dtype)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the size of the largest tensor that an operation creates; views do not count."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and not func.is_view:
                self.numbers = max(self.numbers, tensor.numel())
        return result
