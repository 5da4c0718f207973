"""K-means selection: one frame for each of K clusters of similar frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from vtc.interfaces.costs import Sizes
from vtc.interfaces.frame_selector import FrameSelector, Selection
from vtc.interfaces.part import require_whole
from vtc_selectors._cosine import CHUNK, check_frames, most_relevant_first, unit
from vtc_selectors._spread import middles_of_parts


class KMeans(FrameSelector):
    """Groups the frames into K clusters and takes the frame nearest to the centre of each.

    Lloyd's algorithm ("Least squares quantization in PCM", IEEE Transactions on Information
    Theory, 1982) on embeddings of length one: assign frames to the nearest centroid, move
    centroids to the mean of their frames, until no frame moves or for ``iterations`` rounds. The
    centroids start at the keyframes of ``uniform``; nothing is random. Ties, equal distances in
    float32, go to the earlier cluster and to the earlier frame.

    A cluster without frames keeps its centroid, and gives no keyframe if it is empty in the end. So
    there may be fewer than K keyframes, and identical frames never become two keyframes. Needs no
    query.

    Time O(N K d) per iteration; memory O(N + K d) on top of the embeddings, which are read in
    blocks.
    """

    source = "Lloyd, IEEE Transactions on Information Theory, 1982"
    uses_query: ClassVar[bool] = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``kmeans``.

        Attributes:
            keyframes: K, the number of clusters and maximum number of keyframes, at least 1.
            iterations: The maximum number of rounds, at least 1; most videos need fewer.
        """

        keyframes: int = 32
        iterations: int = 20

        def __post_init__(self) -> None:
            require_whole("keyframes", self.keyframes)
            require_whole("iterations", self.iterations)

    config: Config

    def macs(self, sizes: Sizes) -> float:
        return (2 * self.config.iterations + 1) * self.config.keyframes * sizes.d

    def extra_memory(self, sizes: Sizes) -> float:
        return 768 * (sizes.d + self.config.keyframes) + 4 * sizes.N

    @torch.no_grad()
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        check_frames("kmeans", embeddings)
        start = middles_of_parts(len(embeddings), self.config.keyframes)
        centroids = unit(embeddings[torch.tensor(start, device=embeddings.device)])
        labels, nearness = _assign(embeddings, centroids)
        for _ in range(self.config.iterations):
            centroids = _means(embeddings, labels, centroids)
            before = labels
            labels, nearness = _assign(embeddings, centroids)
            if torch.equal(labels, before):
                break
        return Selection(_nearest_frames(labels, nearness).sort().values, relevance=None)


def _assign(embeddings: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of each frame.

    Returns:
        The centroid's index ``[N]`` int64 and the nearness ``[N]`` float32: -|x - c|^2 / 2.
    """
    labels, nearness = [], []
    lengths = centroids.square().sum(-1) / 2
    for chunk in torch.split(embeddings, CHUNK):
        points = unit(chunk)
        # In float32, because the product rounds equal centroids differently.
        closeness = (points @ centroids.T - lengths).float()
        labels.append(closeness.argmax(dim=1))  # max(dim=1) starts threads for any size
        nearness.append(closeness.amax(dim=1) - points.square().sum(-1).float() / 2)
    return torch.cat(labels), torch.cat(nearness)


def _means(embeddings: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """Return the mean ``[K, d]`` of each cluster's frames; an empty cluster keeps its centroid."""
    sums = torch.zeros_like(centroids)
    sizes = sums.new_zeros(len(centroids), 1)
    chunks = zip(torch.split(embeddings, CHUNK), torch.split(labels, CHUNK), strict=True)
    for chunk, label in chunks:
        # A matrix product, because index_add has no fixed order on a GPU.
        member = one_hot(label, len(centroids)).to(sums.dtype)
        sums += member.T @ unit(chunk)
        sizes += member.sum(0)[:, None]
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)


def _nearest_frames(labels: Tensor, nearness: Tensor) -> Tensor:
    """Return the frame nearest to the centroid for each non-empty cluster."""
    order = most_relevant_first(nearness)
    order = order[labels[order].argsort(stable=True)]  # by cluster, nearest first
    cluster = labels[order]
    first = torch.ones_like(cluster, dtype=torch.bool)
    first[1:] = cluster[1:] != cluster[:-1]
    return order[first]
