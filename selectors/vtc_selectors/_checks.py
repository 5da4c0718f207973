"""Input checks shared by all selectors."""

from __future__ import annotations

from torch import Tensor


def check_embeddings(selector: str, embeddings: Tensor) -> None:
    """Raise a ValueError unless embeddings are ``[N, d]`` with N >= 1; d may be 0."""
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(
            f"selector '{selector}': expected embeddings [N, d] of N >= 1 frames, got "
            f"{list(embeddings.shape)}"
        )
