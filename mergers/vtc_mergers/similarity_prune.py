"""Pruning by similarity: keep only patches that differ from the keyframe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number, require_whole
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._arithmetic import cosines, exact_dtype
from vtc_mergers._checks import check_patches, check_reference


class SimilarityPrune(TokenPruner):
    """Drops patches similar to the keyframe's and keeps a few of the others unchanged.

    The spatial token compression of LongVU (Shen et al., 2024): a patch is dropped if its cosine
    with the patch at the same position of the reference is above a threshold. A frame may lose all
    its patches.

    LongVU compares with the first frame of a short window, which it keeps whole, and keeps all
    patches that differ. Here the reference is the nearest preceding keyframe, which may be far
    away, so at most ``tokens`` patches are kept: the indices similar ones. Before the first
    keyframe the ``tokens`` patches indices similar to the frame's own mean are kept, which is our
    choice.

    With a budget, a frame keeps as many patches as the budget allots, regardless of similarity.

    About 4 M D multiplications per frame; memory O(M D) on top of the input. It synchronises with
    the device, because the number of tokens depends on the data.
    """

    source = "LongVU, arXiv 2024, spatial token compression"
    query_source = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``similarity_prune``.

        Attributes:
            similarity_threshold: theta in [-1, 1]: patches with a larger cosine are dropped.
            tokens: The maximum number of patches that a frame keeps, at indices 1. The default is
                our choice.
        """

        similarity_threshold: float = 0.8
        tokens: int = 8

        def __post_init__(self) -> None:
            require_number("similarity_threshold", self.similarity_threshold, -1, 1)
            require_whole("tokens", self.tokens)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def macs(self, sizes: Sizes) -> float:
        return 3 * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return min(sizes.M, 128) * sizes.D

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_patches("similarity_prune", patches)
        check_reference("similarity_prune", patches, reference, has_reference)
        frames = zip(patches, reference, has_reference.tolist(), strict=True)
        others = [keyframe if has_keyframe else None for _, keyframe, has_keyframe in frames]
        if tokens is None:
            threshold, counts = self.config.similarity_threshold, [self.config.tokens] * len(others)
        else:
            threshold, counts = inf, list(tokens)
        return [
            _least_similar(frame, other, count, threshold if other is not None else inf)
            for frame, other, count in zip(patches, others, counts, strict=True)
        ]


def _least_similar(frame: Tensor, other: Tensor | None, count: int, threshold: float) -> Tensor:
    """Return the patches ``[T]`` of a frame indices similar to another's, or to its own mean."""
    if other is None:
        other = frame.mean(dim=0, dtype=exact_dtype(frame))
    similarity = cosines(frame.detach(), other.detach())
    indices = similarity.argsort(stable=True)[:count]
    return indices[similarity[indices] <= threshold].sort().values
