"""Memory consolidation: similar neighbouring frames merge into one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require, require_whole
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import cosines, exact_dtype, weighted_sum
from vtc_mergers._checks import check_patches
from vtc_mergers._matching import matching_weights


class Memory(TokenMerger):
    """Merges the most similar neighbouring frames of a window until ``frames`` are left.

    Algorithm 1 of MovieChat (Song et al., CVPR 2024): of all neighbours in the window, the pair
    with the highest mean cosine of its patches (Eq. 3) merges into its mean, weighted by the
    number of frames in each. This is repeated until ``frames`` are left. Ties go to the earlier
    pair.

    Differences from the paper: there the short-term memory restarts with the consolidated frames,
    and a long-term memory of 256 frames collects all results; here windows are independent, and all
    results go to the language model. Windows consist of non-keyframes only, so a window may span a
    keyframe. Each remaining frame is reduced to ``tokens`` tokens as in ``tome``; the paper uses a
    Q-Former. The tokens take the place of the first frame merged into them; the others have no
    tokens.

    At most 12 M D multiplications per frame for cosines, and those of ``tome`` for each frame left.
    Memory O(window M D), since a window is merged at once, plus O(M^2).
    """

    source = "MovieChat, CVPR 2024, Algorithm 1"
    query_source = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``memory``.

        Attributes:
            window: The number of consecutive non-keyframes that are merged together, at least 1:
                the length of the short-term memory (Table D3).
            frames: R_L, the number of frames that remain of a window, from 1 to ``window`` (Table
                D3).
            tokens: The number of tokens of each remaining frame, at least 1 (Table D3); frames with
                fewer patches keep all.
        """

        window: int = 18
        frames: int = 2
        tokens: int = 32

        def __post_init__(self) -> None:
            require_whole("window", self.window)
            require_whole("frames", self.frames)
            require_whole("tokens", self.tokens)
            require(
                self.frames <= self.window,
                "frames",
                self.frames,
                f"a whole number of at most window={self.window}",
            )

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens
        self.frames_together = self.config.window

    def macs(self, sizes: Sizes) -> float:
        left = self.config.frames / self.config.window
        return (12 + left * (sizes.M / 3 + self.config.tokens)) * sizes.M * sizes.D

    def extra_memory(self, sizes: Sizes) -> float:
        return max(
            (self.config.window / 2 + 1) * sizes.M * sizes.D, (sizes.M / 4 + sizes.D) * sizes.M
        )

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> list[Tensor]:
        check_patches("memory", patches)
        tokens: list[Tensor] = []
        for start in range(0, len(patches), self.config.window):
            tokens += self._consolidate(patches[start : start + self.config.window])
        return tokens

    def _consolidate(self, window: Tensor) -> list[Tensor]:
        """Return the tokens ``[T_i, D]`` of each frame of a window ``[n, M, D]``."""
        tokens = []
        exact = exact_dtype(window)
        for run in _runs(window.detach().to(exact), self.config.frames):
            mean = window[run.start : run.stop].mean(dim=0, dtype=exact)
            merged = weighted_sum(matching_weights(mean, self.config.tokens), mean)
            no_tokens = window.new_empty(0, window.shape[2])
            tokens += [merged.to(window.dtype), *[no_tokens] * (len(run) - 1)]
        return tokens


def _runs(frames: Tensor, left: int) -> list[range]:
    """Return the ``left`` runs of neighbours of ``[n, M, D]`` that Algorithm 1 merges.

    Since means are weighted by size, each remaining frame is the mean of its run.
    """
    runs = [range(i, i + 1) for i in range(len(frames))]
    means = list(frames)
    similarity = [_similarity(a, b) for a, b in zip(means, means[1:], strict=False)]
    while len(runs) > left:
        i = int(torch.stack(similarity).argmax())
        runs[i : i + 2] = [range(runs[i].start, runs[i + 1].stop)]
        means[i : i + 2] = [frames[runs[i].start : runs[i].stop].mean(dim=0)]
        del similarity[i]
        for j in (i - 1, i):  # the new frame's neighbours
            if 0 <= j < len(similarity):
                similarity[j] = _similarity(means[j], means[j + 1])
    return runs


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean cosine of corresponding patches ``[M, D]`` of two frames, Eq. 3."""
    return cosines(a, b).mean()
