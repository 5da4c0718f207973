"""The interface of mergers that merge the frames of a segment of the video together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from vtc.interfaces.token_pruner import TokenPruner

if TYPE_CHECKING:
    from vtc.interfaces.token_budget import VideoPatches


class SegmentMerger(TokenPruner):
    """Merges the tokens of consecutive frames that look alike.

    It cuts the video into segments itself. A merged token is a weighted mean of the tokens of its
    segment, and takes the position of one of them, as a pruner's token does. All frames of a
    segment are in memory at once, so segments must not be long. Alone, as in `forward`, each frame
    is a segment, without saliency.
    """

    uses_survey: ClassVar[bool] = True

    @abstractmethod
    def survey(self, patches: VideoPatches) -> Any:
        """Cut the video into segments, and summarise it for `condense`."""

    @abstractmethod
    def segments(self, survey: Any) -> Tensor:
        """Return ``[N]`` int64, ascending: the number of each frame's segment, from a survey."""

    @abstractmethod
    def condense(
        self,
        patches: Tensor,
        saliency: Tensor | None,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
        survey: Any = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Merge the frames of one segment. Gradients are not computed.

        Args:
            patches: ``[n, M, D]``, the tokens of the n frames of the segment that are not kept
                whole, in order of time; n >= 1.
            saliency: ``[n, M]``, the attention that each token receives in the vision tower; None
                without `TokenPruner.uses_saliency`, or if it is unknown.
            query: ``[Dq]``; None if there is no question.
            tokens: The number of tokens of each frame, from 1 to M, if a budget sets it; None: the
                merger's options decide.
            survey: The result of `survey`; None if the frames are the whole video.

        Yields:
            For each frame, ``[T_i]`` int64, ascending, the tokens whose positions the merged ones
            take, and ``[T_i, n * M]``, the weight of each token of the segment in each of them, in
            at least float32. T_i is ``tokens[i]`` if it is given.
        """

    def merge_segment(
        self, patches: Tensor, saliency: Tensor | None, query: Tensor | None
    ) -> list[Tensor]:
        """Return the merged tokens ``[T_i, D]`` of the frames of a segment; see `condense`."""
        flat = patches.flatten(0, 1)
        exact = flat.to(torch.promote_types(flat.dtype, torch.float32))
        pairs = self.condense(patches, saliency, query)
        return [(weights.to(exact) @ exact).to(flat) for _, weights in pairs]

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        counts = [None] * len(patches) if tokens is None else [[count] for count in tokens]
        pairs = zip(patches, counts, strict=True)
        return [self._alone(frame, query, count)[0] for frame, count in pairs]

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> list[Tensor]:
        weights = self.weights(patches, reference, has_reference, query)
        return [
            (weight @ frame.to(weight)).to(frame)
            for weight, frame in zip(weights, patches, strict=True)
        ]

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> list[Tensor]:
        return [self._alone(frame, query, None)[1] for frame in patches]

    @torch.no_grad()
    def _alone(
        self, frame: Tensor, query: Tensor | None, count: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        [kept] = self.condense(frame[None], None, query, count)
        return kept
