"""Pruning by similarity: keep only the patches that differ from the keyframe's."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number, require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import cosines, exact_dtype
from vtc_mergers._checks import check_patches, check_reference


class SimilarityPrune(TokenMerger):
    """Drops the patches that are similar to the keyframe's, and keeps a few others unchanged.

    The spatial token compression of LongVU (Shen et al., 2024): a patch is dropped if its cosine
    with the patch in the same place of the reference is above a threshold. A frame may lose all
    its patches.

    LongVU compares with the first frame of a short window, which it keeps whole, and keeps all
    patches that differ. Here the reference is the nearest preceding keyframe, which may be far
    away, so at most ``tokens`` patches are kept: the least similar ones. Before the first keyframe
    the ``tokens`` patches least similar to the frame's own mean are kept; that is our choice.

    About 4 M D multiplications per frame; memory O(M D) beside the input. It waits for the device,
    because the number of tokens depends on the data.
    """

    source = "LongVU, arXiv 2024, spatial token compression"
    query_source = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``similarity_prune``.

        Attributes:
            similarity_threshold: theta in [-1, 1]: patches of a larger cosine are dropped.
            tokens: The maximum number of patches that a frame keeps, at least 1; ours.
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

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> list[Tensor]:
        indices = self._choose(patches, reference, has_reference)
        return [frame[keep] for frame, keep in zip(patches, indices, strict=True)]

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> list[Tensor]:
        indices = self._choose(patches, reference, has_reference)
        exact = exact_dtype(patches)
        return [F.one_hot(keep, patches.shape[1]).to(exact) for keep in indices]

    def _choose(self, patches: Tensor, reference: Tensor, has_reference: Tensor) -> list[Tensor]:
        """Return the indices of the patches to keep, ``[T_i]`` int64 ascending, of each frame."""
        check_patches("similarity_prune", patches)
        check_reference("similarity_prune", patches, reference, has_reference)
        return [
            self._choose_patches(frame, keyframe if has_keyframe else None)
            for frame, keyframe, has_keyframe in zip(
                patches, reference, has_reference.tolist(), strict=True
            )
        ]

    def _choose_patches(self, frame: Tensor, keyframe: Tensor | None) -> Tensor:
        threshold = self.config.similarity_threshold
        if keyframe is None:
            keyframe, threshold = frame.mean(dim=0, dtype=exact_dtype(frame)), inf
        similarity = cosines(frame.detach(), keyframe.detach())
        least = similarity.argsort(stable=True)[: self.config.tokens]
        return least[similarity[least] <= threshold].sort().values
