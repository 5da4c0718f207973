"""Mean pooling: the mean of a frame's patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype, frames_at_once
from vtc_mergers._checks import check_patches


class MeanPool(TokenMerger):
    """Averages a frame's patches.

    The baseline of ViLAMP's ablation and the limit of ``dfm`` at a high temperature. Time
    O(n M D), memory at most a float32 copy of the input.
    """

    source = "baseline"
    query_source = None
    uses_reference = False

    def macs(self, sizes: Sizes) -> float:
        return sizes.M * sizes.D / 2

    def extra_memory(self, sizes: Sizes) -> float:
        return sizes.n * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("mean_pool", patches)
        # A float32 copy of all frames at once is slow on a CPU and takes more memory.
        parts = torch.split(patches, frames_at_once(patches.device))
        exact = exact_dtype(patches)
        means = [frames.mean(dim=1, keepdim=True, dtype=exact) for frames in parts]
        return torch.cat(means).to(patches.dtype)

    def log_mass(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        n, count, _ = patches.shape
        return patches.new_full((n,), math.log(count), dtype=torch.float32)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("mean_pool", patches)
        n, count, _ = patches.shape
        return patches.new_full((n, 1, count), 1 / count, dtype=exact_dtype(patches))
