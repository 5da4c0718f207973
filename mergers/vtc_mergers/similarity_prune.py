"""Pruning by similarity: only the patches that differ from the keyframe's stay."""

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
    """Drops the patches that the keyframe has as well, and keeps a few of the others unchanged.

    The spatial token compression of LongVU (Shen et al., 2024): a patch whose cosine with the
    patch in the same place of the reference is above a threshold is dropped. A frame may vanish.

    LongVU compares with the first frame of a short window, which it keeps whole, and keeps all
    that differ. Here the reference is the nearest preceding keyframe, which may be far away, so
    at most ``tokens`` patches stay: those least like it. Before the first keyframe there is
    nothing to compare with, and the ``tokens`` patches least like the frame's own mean stay; that
    is our choice.

    About 4 M D multiplications a frame; memory O(M D) beside the input. The number kept is data,
    so the device is waited for.
    """

    source = "LongVU, arXiv 2024, spatial token compression"
    query_source = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``similarity_prune``.

        Attributes:
            similarity_threshold: theta, from -1 to 1: a patch more like the keyframe's is dropped.
            tokens: how many patches of a frame stay at most, at least 1; ours.
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
        chosen = self._choose(patches, reference, has_reference)
        return [frame[kept] for frame, kept in zip(patches, chosen, strict=True)]

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> list[Tensor]:
        chosen = self._choose(patches, reference, has_reference)
        exact = exact_dtype(patches)
        return [F.one_hot(kept, patches.shape[1]).to(exact) for kept in chosen]

    def _choose(self, patches: Tensor, reference: Tensor, has_reference: Tensor) -> list[Tensor]:
        """The numbers of the patches that stay, ``[T_i]`` int64 ascending, of each frame."""
        check_patches("similarity_prune", patches)
        check_reference("similarity_prune", patches, reference, has_reference)
        return [
            self._kept(frame, keyframe if known else None)
            for frame, keyframe, known in zip(
                patches, reference, has_reference.tolist(), strict=True
            )
        ]

    def _kept(self, frame: Tensor, keyframe: Tensor | None) -> Tensor:
        threshold = self.config.similarity_threshold
        if keyframe is None:
            keyframe, threshold = frame.mean(dim=0, dtype=exact_dtype(frame)), inf
        likeness = cosines(frame.detach(), keyframe.detach())
        least = likeness.argsort(stable=True)[: self.config.tokens]
        return least[likeness[least] <= threshold].sort().values
