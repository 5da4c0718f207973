"""Keep the merger's weights of a few frames, for pages that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.segment_merger import SegmentMerger
from vtc.pipeline.budget_merging import grid_of
from vtc.pipeline.report import Heat

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import Selection
    from vtc.interfaces.video_span import VideoSpan
    from vtc.pipeline.call import Call
    from vtc.pipeline.query import Query


def first_apart(frames: Tensor, count: int) -> Tensor:
    """Return the first ``count`` frames that are not neighbours, then the first of the rest.

    Neighbours look alike, so one of them is enough.
    """
    numbers = frames.tolist()
    least = (max(numbers, default=0) - min(numbers, default=0) + 1) / (4 * max(count, 1))
    taken: list[int] = []
    for number in numbers:
        if len(taken) < count and all(abs(number - other) >= least for other in taken):
            taken.append(number)
    others = [number for number in numbers if number not in taken]
    return frames.new_tensor(taken + others[: count - len(taken)])


class HeatKeeper:
    """The weights of the most relevant non-keyframes of one video that are not neighbours.

    Nothing is kept while gradients are computed, as in training, or for mergers that have no
    weights or merge several frames together.

    Args:
        rest: ``[n]`` int64, the frames that are merged, ascending.
    """

    def __init__(self, call: Call, span: VideoSpan, rest: Tensor, selection: Selection) -> None:
        self._call, self._span = call, span
        self._relevance = None if selection.relevance is None else selection.relevance.cpu()
        self.frames: list[Heat] = []
        count = min(call.heat_frames, len(rest))
        together = call.merger.frames_together > 1 or isinstance(call.merger, SegmentMerger)
        if torch.is_grad_enabled() or together:
            count = 0
        if self._relevance is None:  # evenly spread over the frames, as none matters more
            places = (torch.arange(count) + 0.5) * (len(rest) / max(count, 1))
            self._slices = rest[places.long()]
        else:
            order = self._relevance[rest].argsort(descending=True, stable=True)
            self._slices = first_apart(rest[order], count).sort().values

    def keep(
        self,
        slices: Tensor,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Query,
    ) -> None:
        """Keep the weights of the frames to show in a chunk.

        Args:
            slices: ``[n]`` int64, the numbers of the chunk's frames.
            patches, reference, has_reference: As `vtc.TokenMerger.forward` takes them.
        """
        rows = torch.isin(slices, self._slices).nonzero().flatten()
        grid = grid_of(self._span, patches.shape[1])
        if not len(rows) or grid is None or patches.is_meta:
            return
        at = rows.to(patches.device)
        try:
            weights = self._call.merger.weights(
                patches[at], reference[at], has_reference[at], query.for_merger(patches)
            )
            if weights is None:
                return
            maps = [frame.float().mean(dim=0).reshape(grid).cpu().numpy() for frame in weights]
        except Exception as error:  # from a third party's merger; the answer matters more
            self._call.recorder.warn(
                f"the weights of merger {self._call.merger_name!r} cannot be shown: {error}"
            )
            return
        for number, weight in zip(slices[rows].tolist(), maps, strict=True):
            rank = None if self._relevance is None else float(self._relevance[number])
            self.frames.append(Heat(number * self._span.frames_per_slice, rank, weight))


class HeatOfAll:
    """Keeps the weights of a chunk for several keepers.

    Args:
        keepers: One for each query.
    """

    def __init__(self, keepers: Sequence[HeatKeeper | HeatOfAll]) -> None:
        self._keepers = keepers

    @property
    def frames(self) -> list[Heat]:
        """The weights that were kept."""
        return [frame for keeper in self._keepers for frame in keeper.frames]

    def keep(
        self,
        slices: Tensor,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Query,
    ) -> None:
        """Pass a chunk to every keeper."""
        for keeper in self._keepers:
            keeper.keep(slices, patches, reference, has_reference, query)
