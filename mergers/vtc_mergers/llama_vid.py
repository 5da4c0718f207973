"""LLaMA-VID: a query-dependent context token and a content token per frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtc.interfaces.costs import Sizes
from vtc.interfaces.token_merger import TokenMerger
from vtc_mergers._arithmetic import apply, exact_dtype
from vtc_mergers._checks import check_patches, check_query, not_built


class LlamaVid(TokenMerger):
    """Merges a frame into two tokens, by query attention and by averaging; must be trained.

    Eq. 1 of LLaMA-VID (Li, Wang and Jia, ECCV 2024): the query attends to the patches by dot
    products, and a projection of the result is the context token. The content token is a
    projection of the mean of the patches (the paper's one content token for video).

    In the paper, a text decoder generates a sequence of queries from the frame, and Eq. 1 averages
    over them. Here the query is one vector, the frame encoder's text embedding, mapped linearly to
    the width of the patches. The patches are in the language model's input space, so both
    projections start as the identity.

    2 D^2 + Dq D parameters; 2 (M D + D^2) multiplications per frame; memory O(M D) on top of the
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
        """Create the query map, normal with std 0.02, and the projections, as the identity."""
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
        """Merge a frame ``[M, D]`` with the mapped query ``[D]`` into ``[2, D]``."""
        exact = exact_dtype(frame, query)
        values = frame.to(exact)
        # No matrix products: autocast would compute them in its own dtype.
        attention = torch.softmax((values * query.to(exact)).sum(dim=1), dim=0)
        context = (attention[:, None] * values).sum(dim=0)
        projected = (apply(self.to_context, context), apply(self.to_content, values.mean(dim=0)))
        return torch.stack(projected).to(frame.dtype)
