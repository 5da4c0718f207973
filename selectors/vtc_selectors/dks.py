"""Differential keyframe selection: relevant to the query and unlike one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require, require_number, require_whole
from vtc_selectors._cosine import CHUNK, most_relevant_first, query_relevance, unit
from vtc_selectors._gaps import fill_gaps

_ROUNDING = 1e-6
"""Cosines this close to the threshold count as equal to it: float32 embeddings tell no more."""


class DKS(FrameSelector):
    """Takes the frames most relevant to the query, skipping those like a frame already taken.

    Algorithm 1 of ViLAMP (Eq. 2-4): frames are visited in the order of their relevance, ties in
    the order of time, and one is taken while fewer than K are and its largest cosine with those
    taken is below ``similarity_threshold``. The first is always taken. A video may have fewer
    than K frames that are unlike one another; it then gets fewer than K keyframes.

    ``fill="gaps"`` with ``relevance_threshold=0.2`` is what the authors' released code does. One
    difference is left: it also takes a frame whose cosine *equals* the threshold.

    Time O(N log N + N K d), and on the CPU less when K frames are found early; no N x N matrix.
    Memory O(N + K d) beside the embeddings, which are read in blocks; O(N d) on a GPU.
    """

    source = "ViLAMP, ICML 2025, Algorithm 1"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dks``; the defaults are the paper's.

        Attributes:
            keyframes: K, the most keyframes to take, at least 1.
            similarity_threshold: tau in [-1, 1], the cosine from which a frame is too like one
                that was taken. 1 refuses copies only, -1 leaves the most relevant frame alone.
            fill: what to do with keyframes to spare. ``"none"``: nothing. ``"gaps"``: spread them
                over the parts of the video where none was taken, up to exactly min(K, N).
            relevance_threshold: the least relevance of a frame to be taken, in [-1, 1]; None takes
                any. No frame at all may reach it: without ``fill`` there are then no keyframes.
        """

        keyframes: int = 32
        similarity_threshold: float = 0.85
        fill: Literal["none", "gaps"] = "none"
        relevance_threshold: float | None = None

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_number("similarity_threshold", self.similarity_threshold, -1, 1)
            require(self.fill in ("none", "gaps"), "fill", self.fill, "'none' or 'gaps'")
            if self.relevance_threshold is not None:
                require_number("relevance_threshold", self.relevance_threshold, -1, 1)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return (self.config.keyframes + 4) * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return (768 + 2 * self.config.keyframes) * sizes.d + 4 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance("dks", embeddings, query)
        order = most_relevant_first(relevance)
        if self.config.relevance_threshold is not None:
            order = order[relevance[order] >= self.config.relevance_threshold]
        visit = self._visit if embeddings.device.type == "cpu" else self._visit_without_waiting
        keyframes = visit(embeddings, order).sort().values
        if self.config.fill == "gaps":
            filled = fill_gaps(keyframes.tolist(), len(embeddings), self.config.keyframes)
            keyframes = torch.tensor(filled, device=embeddings.device)
        return Selection(keyframes, relevance)

    def _visit(self, embeddings: Tensor, order: Tensor) -> Tensor:
        """Algorithm 1 over frames ``order``, in blocks; the frames taken, in that order.

        A frame is compared when it is reached, not whenever another is taken, so most videos are
        done after the first block.
        """
        taken: list[Tensor] = []
        vectors: list[Tensor] = []
        for frames in torch.split(order, CHUNK):
            block = unit(embeddings[frames])
            if vectors:
                frames, block = self._unlike(torch.cat(vectors), frames, block)
            while len(frames) and len(taken) < self.config.keyframes:
                taken.append(frames[:1])
                # A view would keep the whole block alive, K blocks in the end.
                vectors.append(block[:1].clone())
                frames, block = self._unlike(block[:1], frames[1:], block[1:])
            if len(taken) == self.config.keyframes:
                break
        return torch.cat([order[:0], *taken])

    def _visit_without_waiting(self, embeddings: Tensor, order: Tensor) -> Tensor:
        """The same for a GPU, which would have to be waited for at each keyframe and block."""
        places = self._places(unit(embeddings[order]))
        return order[places[places < len(order)]]

    def _places(self, vectors: Tensor) -> Tensor:
        """Algorithm 1 over unit vectors ``[n, d]``: the places taken, and n where none was left.

        All frames are compared with each keyframe: about 20 times the work, and memory for all of
        them in float64, but no number is looked at.
        """
        count = len(vectors)
        places = torch.arange(count, device=vectors.device)
        free = torch.ones_like(places, dtype=torch.bool)
        taken = [places[:0]]
        for _ in range(min(self.config.keyframes, count)):
            place = torch.where(free, places, count).amin(dim=0, keepdim=True)
            taken.append(place)
            like = vectors @ vectors.index_select(0, place.clamp(max=count - 1)).T
            free &= like[:, 0] < self.config.similarity_threshold - _ROUNDING
            free &= places != place
        return torch.cat(taken)

    def _unlike(self, taken: Tensor, frames: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the frames of a block whose redundancy (Eq. 4) is below the threshold."""
        redundancy = (block @ taken.T).amax(dim=1)
        keep = redundancy < self.config.similarity_threshold - _ROUNDING
        return frames[keep], block[keep]
