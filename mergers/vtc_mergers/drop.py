"""Dropping: non-keyframes vanish."""

from __future__ import annotations

from torch import Tensor

from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype
from vtc_mergers._checks import check_patches


class Drop(TokenMerger):
    """Leaves nothing of a frame: the language model sees the keyframes only.

    The "keyframes only" baseline of ViLAMP. Costs nothing; the frames need not be encoded either.
    """

    source = "ViLAMP, ICML 2025, keyframes only"
    macs = "0"
    extra_memory = "0"
    tokens_per_frame: int = 0

    @property
    def query_source(self) -> None:
        """None: there is no query."""
        return None

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """Merge each frame into no token.

        Args:
            patches: ``[n, M, D]``, the patch tokens of n non-keyframes.
            reference: not used.
            has_reference: not used.
            query: not used.

        Returns:
            ``[n, 0, D]`` in the dtype of the patches.

        Raises:
            ValueError: the patches are not ``[n, M, D]`` with M >= 1.
            TypeError: the patches are not floating point.
        """
        check_patches("drop", patches)
        return patches[:, :0]

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """Of no tokens: ``[n, 0, M]``, in at least float32; arguments as for ``forward``."""
        check_patches("drop", patches)
        n, count, _ = patches.shape
        return patches.new_empty(n, 0, count, dtype=exact_dtype(patches))
