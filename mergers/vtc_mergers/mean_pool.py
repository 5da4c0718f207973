"""Mean pooling: every patch weighs the same."""

from __future__ import annotations

from torch import Tensor

from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype
from vtc_mergers._checks import check_patches


class MeanPool(TokenMerger):
    """Averages a frame's patches, whatever was asked.

    The baseline of ViLAMP's ablation and the limit of ``dfm`` at a high temperature. Time
    O(n M D), memory at most a float32 copy of the input.
    """

    source = "baseline"
    macs = "M * D / 2"
    extra_memory = "0"

    @property
    def query_source(self) -> None:
        """None: there is no query."""
        return None

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """Merge each frame into one token.

        Args:
            patches: ``[n, M, D]``, the patch tokens of n non-keyframes.
            reference: not used.
            has_reference: not used.
            query: not used.

        Returns:
            ``[n, 1, D]`` in the dtype of the patches; summed in at least float32.

        Raises:
            ValueError: the patches are not ``[n, M, D]`` with M >= 1.
            TypeError: the patches are not floating point.
        """
        check_patches("mean_pool", patches)
        return patches.mean(dim=1, keepdim=True, dtype=exact_dtype(patches)).to(patches.dtype)

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """All alike: ``[n, 1, M]`` of 1 / M, in at least float32; arguments as for ``forward``."""
        check_patches("mean_pool", patches)
        n, count, _ = patches.shape
        return patches.new_full((n, 1, count), 1 / count, dtype=exact_dtype(patches))
