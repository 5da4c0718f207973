"""HiCo: similar patches of a clip of several frames merge into one token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import exact_dtype, weighted_sum
from vtc_mergers._checks import check_patches
from vtc_mergers._matching import matching_weights


class HiCo(TokenMerger):
    """Merges the most similar patches of a clip of frames, until each frame has a few tokens.

    The clip-level compression of VideoChat-Flash (Li et al., "VideoChat-Flash: Hierarchical
    Compression for Long-Context Video Modeling", 2025): bipartite soft matching of Token Merging
    (see ``_matching.py``) over all patches of a clip, so that patches of different frames merge
    too. A clip of four frames becomes 64 tokens, 16 per frame.

    The tokens of a clip are in the order of their first patches and are shared out evenly: the
    first ``tokens`` of them take the place of the first frame, and so on. The place of a token is
    therefore that of its clip, not exactly that of its patches.

    Differences from the authors' model: it merges the output of a video encoder that attends
    across the frames of a clip, before a projector that is trained with merging; here the patches
    are those that the language model would read. They compare means over the encoder's attention
    heads, which projected patches do not have; here whole patches are compared. The order in which
    unmerged tokens enter the next step is that of the patches. The second level of HiCo, which
    drops tokens inside the language model, is not part of it.

    Clips consist of non-keyframes only, so a clip may span a keyframe; use the selector ``none`` to
    merge all frames. A last clip of fewer frames gets ``tokens`` per frame. Gradients flow through
    the means, not through the matching. Needs no query.

    With F frames per clip, about 1/3 F M^2 D multiplications per frame for the cosines of all
    steps, and F T M D for the means. Memory O(F^2 M^2 + F M D + n T D) beside the input.
    """

    source = "VideoChat-Flash, arXiv 2025, clip-level compression"
    query_source = None
    uses_reference = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``hico``; the defaults are the authors'.

        Attributes:
            frames: F, the number of consecutive non-keyframes in a clip, at least 1. With one, the
                merger equals ``tome``.
            tokens: T, the number of tokens per frame, at least 1; a clip has F T tokens. Frames
                with fewer patches are unchanged.
        """

        frames: int = 4
        tokens: int = 16

        def __post_init__(self) -> None:
            require_whole("frames", self.frames)
            require_whole("tokens", self.tokens)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens
        self.frames_together = self.config.frames

    def macs(self, sizes: Sizes) -> float:
        frames, tokens = self.config.frames, self.config.tokens
        return frames * (sizes.M / 3 + tokens) * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        patches, tokens = self.config.frames * sizes.M, self.config.frames * self.config.tokens
        return max(
            patches**2 / 4 + patches * sizes.D,
            3 * tokens * patches,
            sizes.n * self.config.tokens * sizes.D,
        )

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("hico", patches)
        tokens, dim = self.config.tokens, patches.shape[2]
        if patches.shape[1] <= tokens:
            return patches
        merged = [patches.new_empty(0, tokens, dim)]
        for together, weights in self._clips(patches):
            merged.append(weighted_sum(weights, together).reshape(-1, tokens, dim))
        return torch.cat(merged)

    def position_weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | None:
        tokens, count = self.config.tokens, patches.shape[1]
        if count <= tokens:
            return None
        rows = [
            weights.view(-1, len(together) // count, count).sum(dim=1).view(-1, tokens, count)
            for together, weights in self._clips(patches)
        ]
        empty = patches.new_empty(0, tokens, count, dtype=exact_dtype(patches))
        return torch.cat([empty, *rows])

    def _clips(self, patches: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the patches ``[f M, D]`` of each clip of f frames, and its tokens' weights."""
        for start in range(0, len(patches), self.config.frames):
            clip = patches[start : start + self.config.frames]
            together = clip.flatten(0, 1)
            yield together, matching_weights(together, len(clip) * self.config.tokens)
