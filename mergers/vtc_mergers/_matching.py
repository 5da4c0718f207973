"""Bipartite soft matching: merge the most similar patches of a frame, pair by pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc_mergers._arithmetic import exact_dtype, without_autocast


@torch.no_grad()
def matching_weights(frame: Tensor, tokens: int) -> Tensor:
    """Return the weight of each patch in each token that matching makes of a frame.

    Section 3 of ToMe. Tokens are split alternately into A and B. Each token of A is paired with
    the most similar token of B by cosine, and the most similar pairs merge into the mean of their
    patches. The next step starts with the rest of A, followed by B. A step merges as many pairs as
    necessary, and at most half of the tokens. Ties go to the earlier token.

    Args:
        frame: ``[M, D]`` patches. The matching has no gradient.
        tokens: T, at least 1.

    Returns:
        ``[min(T, M), M]`` in at least float32. Rows sum to one, each patch has a weight in one row
        only, and rows are in the order of their first patches.
    """
    patches = frame.to(exact_dtype(frame))
    members = torch.eye(len(patches), dtype=patches.dtype, device=patches.device)
    while len(members) > tokens:
        members = _merge_pairs(members, patches, min(len(members) - tokens, len(members) // 2))
    in_order = members.argmax(dim=1).argsort()
    return _shares(members)[in_order]


def _merge_pairs(members: Tensor, patches: Tensor, pairs: int) -> Tensor:
    """Merge pairs of tokens; ``members`` ``[t, M]`` is 1 where a patch belongs to a token.

    Returns:
        ``[t - pairs, M]``. The membership is the whole state, because a token is the mean of its
        patches.
    """
    with without_autocast(patches.device):
        features = F.normalize(_shares(members) @ patches, dim=1)
        similarity = features[::2] @ features[1::2].T
    best, partners = similarity.amax(dim=1), similarity.argmax(dim=1)
    order = best.argsort(descending=True, stable=True)
    merge, keep = order[:pairs], order[pairs:].sort().values
    a, b = members[::2], members[1::2]
    return torch.cat([a[keep], b.index_add(0, partners[merge], a[merge])])


def _shares(members: Tensor) -> Tensor:
    return members / members.sum(dim=1, keepdim=True)
