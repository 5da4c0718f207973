"""Frames that differ from their neighbours in the features of DINOv2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require, require_whole
from vtc_selectors._cosine import (
    check_frames,
    most_relevant_first,
    piece_memory,
    rows_of_piece,
    unit,
)

_ROUNDING = 1e-6
"""Cosines this close are equal: the rounding of float32 embeddings."""


class DinoDiff(FrameSelector):
    """Drops the frames most similar to their neighbours and takes the K least similar ones.

    The temporal reduction of LongVU (Shen et al., "LongVU: Spatiotemporal Adaptive Compression for
    Long Video-Language Understanding", 2024): DINOv2 distinguishes frames that CLIP, which was
    trained on captions, does not. The video is divided into windows of J = 8 neighbours, the
    redundancy of a frame is its mean cosine with the other J - 1 frames of its window, and
    redundant frames are dropped.

    Three details are our choice. First, a frame is dropped if its redundancy is above the mean of
    its window, or if it is a copy of an earlier frame that is not dropped; this needs no threshold.
    Second, of the remaining frames the K least redundant are keyframes, ties in temporal order;
    there may be fewer than K. Third, if J does not divide N, the last frames are compared with the
    last J frames of the video. Needs no query. A frame is one vector, the class token. The cosine
    of a zero vector with any other is 0.

    Time O(N J d + N log N); memory O(N) on top of the embeddings, which are read in blocks.
    """

    source = "LongVU, arXiv 2024, temporal reduction"
    uses_query: ClassVar[bool] = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dino_diff``; the window is the paper's.

        Attributes:
            keyframes: K, the maximum number of keyframes, at least 1.
            window: J, the number of frames per window, at least 2.
            encoder: The frame encoder of this selector, in the form ``vtc.wrap`` accepts; it
                replaces the one passed to ``vtc.wrap``.
        """

        keyframes: int = 32
        window: int = 8
        encoder: str = "timm:vit_small_patch14_dinov2.lvd142m"

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_whole("window", self.window, 2)
            ok = isinstance(self.encoder, str) and self.encoder != ""
            require(ok, "encoder", self.encoder, "the name or folder of a frame encoder")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.encoder = self.config.encoder

    def macs(self, sizes: Sizes) -> float:
        return (self.config.window + 2) * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return 2 * piece_memory(sizes.d) + 2 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        check_frames("dino_diff", embeddings)
        redundancy, keep = self._judge(embeddings)
        frames = keep.nonzero().flatten()
        best = frames[most_relevant_first(-redundancy[frames])][: self.config.keyframes]
        return Selection(best.sort().values, 1 - redundancy)

    def _judge(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return the redundancy ``[N]`` float32 of all frames and the mask ``[N]`` to keep."""
        frames = len(embeddings)
        window = min(self.config.window, frames)
        rest = frames % window
        whole = embeddings[: frames - rest]
        blocks = torch.split(whole, max(rows_of_piece(whole) // window, 1) * window)
        shape = (-1, window, embeddings.shape[1])
        windows = [_judge_windows(unit(block).reshape(shape)) for block in blocks]
        redundancy = torch.cat([block.flatten() for block, _ in windows])
        keep = torch.cat([block.flatten() for _, block in windows])
        if rest:
            last, keep_last = _judge_windows(unit(embeddings[-window:])[None])
            redundancy = torch.cat([redundancy, last[0, -rest:]])
            keep = torch.cat([keep, keep_last[0, -rest:]])
        return redundancy, keep


def _judge_windows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return redundancy ``[w, J]`` float32 and a keep mask for unit vectors ``[w, J, d]``."""
    cosines = vectors @ vectors.transpose(1, 2)
    others = cosines.tril(-1) + cosines.triu(1)
    redundancy = others.sum(-1) / max(vectors.shape[1] - 1, 1)
    above = redundancy > redundancy.mean(-1, keepdim=True) + _ROUNDING
    equal = cosines.tril(-1) > 1 - _ROUNDING
    copy = (equal & ~above[:, None]).any(-1)  # only copies of kept frames, so that one survives
    return redundancy.float(), ~(above | copy)
