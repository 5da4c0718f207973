"""CDPruner: keep patches that are relevant to the query and different from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtc.interfaces.costs import Sizes
from vtc.interfaces.part import require_number, require_whole
from vtc.interfaces.token_pruner import TokenPruner
from vtc_mergers._arithmetic import cosines
from vtc_mergers._checks import check_patches, check_query
from vtc_mergers._pruning import cosine_matrix, tokens_to_keep

_MIN_VARIANCE = 1e-10
"""Lower bound on the conditional variance, reached by a copy of a kept patch."""


class CDPruner(TokenPruner):
    """Keeps the T patches of a frame that a determinantal point process finds most likely.

    CDPruner (Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for
    Token Pruning in MLLMs", NeurIPS 2025): a set of patches has the probability det L with the
    kernel L_ij = q_i cos(i, j) q_j, where q is the relevance of a patch to the query. Patches are
    added greedily, by Cholesky updates. Ties go to the earlier patch. Kept patches stay unchanged
    and in order.

    In the paper relevance is the mean cosine with CLIP's text embedding, negated because CLIP's
    patch features point away from matching texts, and scaled to [0, 1]. Here relevance r is the
    cosine with the query in the language model's input space, not negated, and scaled to [0, 1]
    over the frame. With theta = ``relevance_weight``, q = exp(theta r / (2 (1 - theta))), so that a
    relevance of 0 excludes no patch; we do not know whether the authors' code does the same. The
    authors prune the tokens of an image by a ratio; here each frame keeps T.

    M^2 D multiplications per frame; memory O(M^2 + M D) on top of the input.
    """

    source = "CDPruner, NeurIPS 2025"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of ``cdpruner``; the default weight is OpenVINO's.

        Attributes:
            tokens: T, the number of patches that a frame keeps, at least 1; a frame with fewer
                patches keeps all. The default is our choice.
            relevance_weight: theta, in [0, 0.99]. 0 ignores the query.
        """

        tokens: int = 16
        relevance_weight: float = 0.5

        def __post_init__(self) -> None:
            require_whole("tokens", self.tokens)
            require_number("relevance_weight", self.relevance_weight, 0, 0.99)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.tokens_per_frame = self.config.tokens

    def macs(self, sizes: Sizes) -> float:
        tokens = self.config.tokens
        return sizes.M**2 * sizes.D + 3 * sizes.M * sizes.D + tokens**2 / 2 * sizes.M

    def extra_memory(self, sizes: Sizes) -> float:
        tokens, frame = self.config.tokens, sizes.M * sizes.D
        return sizes.M**2 + max(tokens * sizes.M, frame - sizes.n * tokens * sizes.D)

    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_patches("cdpruner", patches)
        query = check_query("cdpruner", query, patches.shape[2], self.query_source).detach()
        counts = tokens_to_keep(patches, self.config.tokens, tokens)
        theta = self.config.relevance_weight
        return [
            _most_likely(frame, theta / (2 * (1 - theta)) * _relevance(frame, query), count)
            for frame, count in zip(patches.detach(), counts, strict=True)
        ]


def _relevance(frame: Tensor, query: Tensor) -> Tensor:
    """Return the cosines ``[M]`` of patches and query, scaled to [0, 1]; 0 if all are equal."""
    relevance = cosines(frame, query)
    low, high = relevance.aminmax()
    span = high - low
    return torch.where(span > 0, (relevance - low) / span, 0.0)


def _most_likely(frame: Tensor, log_quality: Tensor, count: int) -> Tensor:
    """Maximise log det L greedily: ``[count]`` indices of patches ``[M, D]``.

    The quality only scales the rows of the Cholesky factor, so its logarithm is added to the log
    conditional variance of the cosines. This avoids an overflow of exp.
    """
    kernel = cosine_matrix(frame)
    variance = kernel.diagonal().round().clamp(min=_MIN_VARIANCE)  # 1, or 0 for a patch of zeros
    factor: list[Tensor] = []
    keep: list[Tensor] = []
    for _ in range(count):
        gain = variance.log() + 2 * log_quality
        if keep:
            gain = gain.index_fill(0, torch.cat(keep), -torch.inf)
        keep.append(gain.argmax(dim=0, keepdim=True))
        column = kernel.index_select(0, keep[-1])[0]
        for row in factor:
            column = column - row * row.index_select(0, keep[-1])
        factor.append(column / variance.index_select(0, keep[-1]).sqrt())
        variance = (variance - factor[-1].square()).clamp(min=_MIN_VARIANCE)
    return torch.cat(keep).sort().values
