"""Differential keyframe selection: frames relevant to the query and different from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require, require_number, require_whole
from vtc_selectors._cosine import (
    CHUNK,
    most_relevant_first,
    piece_memory,
    query_relevance,
    rows_of_piece,
    unit,
    unit_rows,
)
from vtc_selectors._gaps import fill_gaps

_ROUNDING = 1e-6
"""Cosines this close to the threshold count as equal to it: the rounding of float32."""


class DKS(FrameSelector):
    """Takes the frames most relevant to the query and skips those similar to a keyframe.

    Algorithm 1 of ViLAMP (Eq. 2-4): visit frames by descending relevance, ties in temporal order.
    A frame becomes a keyframe if there are fewer than K and its largest cosine with the keyframes
    is below ``similarity_threshold``. The first frame visited is always a keyframe. There are
    fewer than K keyframes if fewer than K frames differ from each other.

    ``fill="gaps"`` with ``relevance_threshold=0.2`` matches the authors' released code, except that
    the released code also takes a frame whose cosine *equals* the threshold.

    Time O(N log N + N K d), less on the CPU if the first frames visited fill K; no N x N matrix.
    Memory O(N + K d) on top of the embeddings, which are read in blocks; O(N d) on a GPU.
    """

    source = "ViLAMP, ICML 2025, Algorithm 1"
    label = "dks"
    """The name in messages."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``dks``; the defaults are the paper's.

        Attributes:
            keyframes: K, the maximum number of keyframes, at least 1.
            similarity_threshold: tau in [-1, 1], the cosine from which a frame is too similar to
                a keyframe. 1 skips copies only; -1 keeps the most relevant frame only.
            fill: How to use the remaining keyframes if fewer than K are selected. ``"none"``: leave
                them unused. ``"gaps"``: spread them over the gaps, for exactly min(K, N) keyframes.
            relevance_threshold: The minimum relevance of a keyframe, in [-1, 1]; None: no minimum.
                If no frame reaches it, there are no keyframes, unless ``fill`` adds some.
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
        return (CHUNK + self.config.keyframes) * sizes.d + piece_memory(sizes.d) + 4 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        relevance = query_relevance(self.label, embeddings, query)
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
        """Return the keyframes of Algorithm 1 among the frames ``order``, in that order.

        A frame is compared when it is visited, not each time a keyframe is added, so most videos
        need only the first block.
        """
        taken: list[int] = []
        vectors: list[Tensor] = []
        for frames in torch.split(order, CHUNK):
            block = unit_rows(embeddings, frames)
            free = torch.ones_like(frames, dtype=torch.bool)
            for vector in reversed(vectors):  # latest first: frames of similar relevance look alike
                free &= self.unlike(block, vector)
                frames, block, free = _compact(frames, block, free)
            while len(taken) < self.config.keyframes and free.any():
                first = int(free.int().argmax())
                free[first] = False
                taken.append(int(frames[first]))
                # A view would keep its whole block in memory: up to K blocks.
                vectors.append(block[first].clone())
                free &= self.unlike(block, vectors[-1])
                frames, block, free = _compact(frames, block, free)
            if len(taken) == self.config.keyframes:
                break
        return torch.tensor(taken, dtype=order.dtype)

    def _visit_without_waiting(self, embeddings: Tensor, order: Tensor) -> Tensor:
        """Run `_visit` on a GPU without synchronising at each keyframe."""
        places = self._places(unit(embeddings[order]))
        return order[places[places < len(order)]]

    def _places(self, vectors: Tensor) -> Tensor:
        """Return the keyframes of Algorithm 1 among unit vectors ``[n, d]``, padded with n.

        This compares all frames with each keyframe. It takes about 20 times the work and a float64
        copy of all frames, but reads no value from the GPU.
        """
        count = len(vectors)
        places = torch.arange(count, device=vectors.device)
        free = torch.ones_like(places, dtype=torch.bool)
        taken = [places[:0]]
        for _ in range(min(self.config.keyframes, count)):
            place = torch.where(free, places, count).amin(dim=0, keepdim=True)
            taken.append(place)
            free &= self.unlike(vectors, vectors.index_select(0, place.clamp(max=count - 1))[0])
            free &= places != place
        return torch.cat(taken)

    def unlike(self, vectors: Tensor, keyframe: Tensor) -> Tensor:
        """Return a mask of the vectors ``[n, d]`` whose cosine with ``keyframe`` is small enough.

        A matrix-vector product runs in the calling thread; see `rows_of_piece`.
        """
        return vectors @ keyframe < self.config.similarity_threshold - _ROUNDING


def _compact(frames: Tensor, block: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Drop the frames of a block ``[n, d]`` that are not ``free``, if that is at least half."""
    if 2 * int(free.sum()) > len(free):
        return frames, block, free
    left = free.nonzero()[:, 0]
    rows = [block.index_select(0, piece) for piece in torch.split(left, rows_of_piece(block))]
    return frames[left], torch.cat(rows), free[left]
