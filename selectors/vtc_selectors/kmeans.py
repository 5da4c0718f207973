"""K-means selection: one frame for each of K groups of frames that look alike."""

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
    Theory, 1982) on the embeddings, scaled to length one: frames go to the nearest centroid,
    centroids go to the mean of their frames, until no frame moves or ``iterations`` rounds are
    done. The centroids start at the middle frames of K equal parts of the video, as ``uniform``
    takes them; nothing is random. Distances that are equal in float32 are equal: such a frame goes
    to the cluster that began earlier, and the earlier of such frames is taken.

    A cluster that loses all its frames stays where it is, and gives no keyframe if it gets none
    back. So there may be fewer than K keyframes: copies of a frame are never taken, and at most as
    many as there are different frames. Needs no query.

    Time O(N K d) an iteration; memory O(N + K d) beside the embeddings, which are read in blocks.
    """

    source = "Lloyd, IEEE Transactions on Information Theory, 1982"
    uses_query: ClassVar[bool] = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``kmeans``.

        Attributes:
            keyframes: K, the number of clusters and the most keyframes to take, at least 1.
            iterations: the most rounds of Lloyd's algorithm, at least 1; most videos need fewer.
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
        return Selection(_nearest_of_each(labels, nearness).sort().values, relevance=None)


def _assign(embeddings: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each frame.

    Returns:
        Its number ``[N]`` int64 and how near it is, ``[N]`` float32: -|x - c|^2 / 2.
    """
    labels, nearness = [], []
    lengths = centroids.square().sum(-1) / 2
    for chunk in torch.split(embeddings, CHUNK):
        points = unit(chunk)
        # In float32, or equal centroids would differ by the rounding of the product.
        best = (points @ centroids.T - lengths).float().max(dim=1)
        labels.append(best.indices)
        nearness.append(best.values - points.square().sum(-1).float() / 2)
    return torch.cat(labels), torch.cat(nearness)


def _means(embeddings: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """The mean ``[K, d]`` of the frames of each cluster; a cluster without any stays."""
    sums = torch.zeros_like(centroids)
    sizes = sums.new_zeros(len(centroids), 1)
    chunks = zip(torch.split(embeddings, CHUNK), torch.split(labels, CHUNK), strict=True)
    for chunk, label in chunks:
        # A product, because adding by index has no fixed order on a GPU.
        member = one_hot(label, len(centroids)).to(sums.dtype)
        sums += member.T @ unit(chunk)
        sizes += member.sum(0)[:, None]
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)


def _nearest_of_each(labels: Tensor, nearness: Tensor) -> Tensor:
    """The frame of each cluster that is nearest to its centroid, for clusters that have frames."""
    order = most_relevant_first(nearness)
    order = order[labels[order].argsort(stable=True)]  # by cluster, and the nearest first in each
    cluster = labels[order]
    first = torch.ones_like(cluster, dtype=torch.bool)
    first[1:] = cluster[1:] != cluster[:-1]
    return order[first]
