"""Select no keyframes: all frames are merged."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc_selectors._checks import check_embeddings


class NoKeyframes(FrameSelector):
    """Selects no keyframe, so that the merger compresses all frames.

    For pruners and mergers that treat all frames alike, such as ``divprune``, ``dycoke`` and
    ``downsample``. Mergers that compare a frame with the keyframe before it have no reference.
    Needs no query and no frame encoder.
    """

    source = "baseline"
    uses_query: ClassVar[bool] = False
    uses_embeddings: ClassVar[bool] = False

    def macs(self, sizes: Sizes) -> float:
        return 0

    def extra_memory(self, sizes: Sizes) -> float:
        return 0

    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        check_embeddings("none", embeddings)
        none = torch.empty(0, dtype=torch.int64, device=embeddings.device)
        return Selection(none, relevance=None)
