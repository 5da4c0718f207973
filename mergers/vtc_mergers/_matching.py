"""Bipartite soft matching: merge the most similar patches of a frame, pair by pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc_mergers._arithmetic import exact_dtype, without_autocast


@torch.no_grad()
def matching_weights(frame: Tensor, tokens: int) -> Tensor:
    """Return the weight of each patch in each token after matching the patches of a frame.

    Section 3 of ToMe. Tokens are split alternately into A and B. Each token of A is paired with the
    most similar token of B by cosine, and the most similar pairs merge into the mean of their
    patches. The next step starts with the rest of A, followed by B. Each step merges as many pairs
    as necessary, but at most half of the tokens. Ties go to the earlier token.

    Args:
        frame: ``[M, D]`` patches. The matching has no gradient.
        tokens: T, at least 1.

    Returns:
        ``[min(T, M), M]`` in at least float32. Rows sum to one, each patch has a weight in one row
        only, and rows are in the order of their first patches.
    """
    sums = frame.to(exact_dtype(frame))
    token = torch.arange(len(frame), device=frame.device)  # the token of each patch
    while len(sums) > tokens:
        sums, place = _merge_pairs(sums, min(len(sums) - tokens, len(sums) // 2))
        token = place[token]
    numbers = torch.arange(len(sums), device=frame.device)
    members = (token == numbers[:, None]).to(sums.dtype)
    in_order = members.argmax(dim=1).argsort()
    return (members / members.sum(dim=1, keepdim=True))[in_order]


def _merge_pairs(sums: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Merge pairs of tokens ``[t, D]``, which are sums: their cosines are those of the means.

    Returns:
        The tokens ``[t - pairs, D]``, and where each of the t tokens is in them, ``[t]`` int64.
    """
    features = F.normalize(sums, dim=1)
    with without_autocast(sums.device):
        similarity = features[::2] @ features[1::2].T
    del features
    best, partners = similarity.amax(dim=1), similarity.argmax(dim=1)
    del similarity
    order = best.argsort(descending=True, stable=True)
    merge, keep = order[:pairs], order[pairs:].sort().values
    a, b = sums[::2], sums[1::2]
    tokens = torch.cat([a[keep], b.index_add(0, partners[merge], a[merge])])
    place = torch.arange(len(sums), device=sums.device) // 2 + len(keep)
    place[::2] = partners + len(keep)
    place[::2][keep] = torch.arange(len(keep), device=sums.device)
    return tokens, place
