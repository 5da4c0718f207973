"""Drop all non-keyframes."""

from __future__ import annotations

from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype
from vtc_mergers._checks import check_patches


class Drop(TokenMerger):
    """Drops the non-keyframes: the language model sees only the keyframes.

    The "keyframes only" baseline of ViLAMP. The vision tower does not encode the non-keyframes.
    """

    source = "ViLAMP, ICML 2025, keyframes only"
    query_source = None
    tokens_per_frame: int = 0

    def macs(self, sizes: Sizes) -> float:
        return 0

    def extra_memory(self, sizes: Sizes) -> float:
        return 0

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("drop", patches)
        return patches[:, :0]

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("drop", patches)
        n, count, _ = patches.shape
        return patches.new_empty(n, 0, count, dtype=exact_dtype(patches))
