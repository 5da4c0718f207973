"""Bipartite soft matching: a frame's patches, merged pair by pair with those most like them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc_mergers._arithmetic import exact_dtype, without_autocast


@torch.no_grad()
def matching_weights(frame: Tensor, tokens: int) -> Tensor:
    """How much each patch counts in each of the tokens that matching leaves of a frame.

    Section 3 of ToMe. Tokens are split alternately into A and B; each of A is joined to the most
    similar of B by cosine; the most similar pairs merge into the mean of all their patches; the
    rest of A, then B, go on to the next step. Each step merges as many pairs as are still needed,
    and at most half of the tokens. Ties go to the earlier token.

    Args:
        frame: ``[M, D]`` patches; a choice has no gradient, so none flows from here.
        tokens: T, at least 1.

    Returns:
        ``[min(T, M), M]`` in at least float32. Rows sum to one, each patch counts in one row, and
        rows are in the order of their first patches.
    """
    patches = frame.to(exact_dtype(frame))
    members = torch.eye(len(patches), dtype=patches.dtype, device=patches.device)
    while len(members) > tokens:
        members = _merge_pairs(members, patches, min(len(members) - tokens, len(members) // 2))
    in_order = members.argmax(dim=1).argsort()
    return _shares(members)[in_order]


def _merge_pairs(members: Tensor, patches: Tensor, pairs: int) -> Tensor:
    """One step: ``members`` ``[t, M]``, 1 where a patch belongs to a token, to ``[t - pairs, M]``.

    Which patches belong together is all the state: a token is the mean of its patches, as merging
    averages weighted by size make it.
    """
    with without_autocast(patches.device):
        features = F.normalize(_shares(members) @ patches, dim=1)
        likeness = features[::2] @ features[1::2].T
    best, partners = likeness.max(dim=1)
    order = best.argsort(descending=True, stable=True)
    merged, kept = order[:pairs], order[pairs:].sort().values
    ours, theirs = members[::2], members[1::2]
    return torch.cat([ours[kept], theirs.index_add(0, partners[merged], ours[merged])])


def _shares(members: Tensor) -> Tensor:
    return members / members.sum(dim=1, keepdim=True)
