"""LLaMA-VID: a context token, which answers the query, and a content token, which does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtc.interfaces.costs import Sizes
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import apply, exact_dtype
from vtc_mergers._checks import check_patches, check_query, not_built


class LlamaVid(TokenMerger):
    """Says each frame in two tokens: what the query finds in it, and its mean; to be trained.

    Eq. 1 of LLaMA-VID (Li, Wang and Jia, ECCV 2024): the query attends to the patches by dot
    products, and a projection makes the context token of what it finds; the content token is the
    mean of the patches after another projection (the paper's one content token for video).

    The paper's query is a sequence that a text decoder writes while it looks at the frame, and
    Eq. 1 averages over it. Here it is one vector, the frame encoder's text embedding, which is
    made to be compared with pictures; a linear map takes it to the width of the patches. As the
    patches are in the language model's input space, both projections start as the identity.

    2 D^2 + Dq D parameters. M D + D^2 multiplications, twice, a frame; memory O(M D) beside the
    input.
    """

    source = "LLaMA-VID, ECCV 2024, Eq. 1"
    query_source = "frame_encoder"
    needs_training = True
    tokens_per_frame: int = 2
    to_query: nn.Linear
    to_context: nn.Linear
    to_content: nn.Linear

    def build(self, patch_dim: int, query_dim: int) -> None:
        """Create the maps: the query's normal with std 0.02, the projections the identity."""
        self.to_query = nn.Linear(query_dim, patch_dim)
        self.to_context = nn.Linear(patch_dim, patch_dim)
        self.to_content = nn.Linear(patch_dim, patch_dim)
        nn.init.normal_(self.to_query.weight, std=0.02)
        nn.init.eye_(self.to_context.weight)
        nn.init.eye_(self.to_content.weight)
        for linear in (self.to_query, self.to_context, self.to_content):
            nn.init.zeros_(linear.bias)

    def macs(self, sizes: Sizes) -> float:
        return 2.5 * sizes.M * sizes.D + 2 * sizes.D**2

    def extra_memory(self, sizes: Sizes) -> float:
        return sizes.M * sizes.D

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        check_patches("llama_vid", patches)
        if not hasattr(self, "to_query"):
            raise not_built("llama_vid")
        query = check_query("llama_vid", query, self.to_query.in_features, self.query_source)
        direction = apply(self.to_query, query)
        tokens = [self._merge(frame, direction) for frame in patches]
        return torch.stack(tokens) if tokens else patches.new_empty(0, 2, patches.shape[2])

    def _merge(self, frame: Tensor, query: Tensor) -> Tensor:
        """One frame ``[M, D]`` and the mapped query ``[D]`` to ``[2, D]``."""
        exact = exact_dtype(frame, query)
        values = frame.to(exact)
        # Not matrix products, which autocast would round to its own dtype.
        attention = torch.softmax((values * query.to(exact)).sum(dim=1), dim=0)
        context = (attention[:, None] * values).sum(dim=0)
        projected = (apply(self.to_context, context), apply(self.to_content, values.mean(dim=0)))
        return torch.stack(projected).to(frame.dtype)
