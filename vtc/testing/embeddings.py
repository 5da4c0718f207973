"""Frame embeddings for tests of selectors, and a look at the memory that selectors take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def scene_embeddings(
    frames: int, dim: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Embeddings of scenes of five frames, some alike beyond a cosine of 0.85 and some not.

    Returns:
        The embeddings ``[N, d]``, not normalised, and a random query ``[d]``.
    """
    generator = torch.Generator().manual_seed(seed)
    scenes = torch.randn(-(-frames // 5), dim, generator=generator).repeat_interleave(5, 0)
    noise = torch.randn(frames, dim, generator=generator)
    embeddings = scenes[:frames] + 0.4 * noise
    return embeddings.to(dtype), torch.randn(dim, generator=generator).to(dtype)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most numbers in one tensor that an operation makes, views aside."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and not func.is_view:
                self.numbers = max(self.numbers, tensor.numel())
        return result
