"""Scene-change selection: one keyframe per scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_number, require_whole
from vtc_selectors._cosine import changes, check_frames, most_relevant_first, piece_memory


class SceneChange(FrameSelector):
    """Cuts the video where neighbouring frames differ most and takes the middle of each scene.

    Key frames from shot boundaries (Zhang, Kankanhalli and Smoliar, "Automatic partitioning of
    full-motion video", Multimedia Systems, 1993), with the cosine distance of embeddings in place
    of colour histograms, and the K - 1 largest changes in place of a threshold. Ties go to the
    earlier change, and to the earlier of two middle frames.

    There is no cut between equal frames, so a video with fewer than K - 1 changes yields fewer than
    K keyframes; a still video yields one. The cosine of a zero vector with any other is 0. Needs no
    query.

    Time O(N d + N log N); memory O(N) on top of the embeddings.
    """

    source = "Zhang et al., Multimedia Systems, 1993"
    uses_query: ClassVar[bool] = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``scene_change``.

        Attributes:
            keyframes: K, the maximum number of scenes and keyframes, at least 1.
            least_change: In [0, 2]; a cut needs a larger cosine distance between neighbours.
        """

        keyframes: int = 32
        least_change: float = 0.0

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("least_change", self.least_change, 0, 2)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return 4.5 * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return 2 * piece_memory(sizes.d) + sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        check_frames("scene_change", embeddings)
        change = changes(embeddings)
        largest = most_relevant_first(change)[: self.config.keyframes - 1]
        cuts = largest[change[largest] > self.config.least_change].sort().values + 1
        borders = torch.cat([cuts.new_zeros(1), cuts, cuts.new_tensor([len(embeddings)])])
        return Selection((borders[:-1] + borders[1:] - 1) // 2, relevance=None)
