"""The interface of token mergers: what a frame that is not a keyframe becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from vtc.interfaces.part import Part


class TokenMerger(Part, nn.Module, ABC):
    """Merges the patch tokens of each non-keyframe into a few tokens.

    Mergers are pure: no state between calls besides their parameters, any device and dtype, and
    the same result however the frames are split into chunks.
    """

    tokens_per_frame: int = 1
    """T, the number of tokens a frame is merged into (0: the frame vanishes)."""

    frames_together: int = 1
    """How many consecutive non-keyframes are merged with regard to one another. Every call gets
    whole groups of so many frames, counted from the first non-keyframe; the last may be short."""

    @property
    def query_source(
        self,
    ) -> Literal["language_model", "frame_encoder", "frame_encoder_raw"] | None:
        """Where ``query`` comes from.

        ``"language_model"``: the mean of the language model's input embeddings of the query's
        tokens, in the space of the patches. ``"frame_encoder"``: the frame encoder's text
        embedding, of length one; ``"frame_encoder_raw"``: the same before it is scaled to that.
        None: the merger takes no query.
        """
        return "language_model"

    @property
    def needs_training(self) -> bool:
        """True: the result means nothing until the merger's parameters were trained."""
        return False

    def build(self, patch_dim: int, query_dim: int) -> None:  # noqa: B027 - optional hook
        """Create parameters; called once, when a model is wrapped.

        Args:
            patch_dim: D, the width of the patches.
            query_dim: Dq, the width of the query.
        """

    def reference_frames(self, frames: Tensor, keyframes: Tensor) -> Tensor:
        """The frame that each non-keyframe is compared with: the nearest keyframe before it.

        A merger may name others, a few different ones of a video at most: their patches are held
        at once.

        Args:
            frames: ``[n]`` int64, the numbers of the non-keyframes, ascending.
            keyframes: ``[K]`` int64, the numbers of the keyframes, ascending.

        Returns:
            ``[n]`` int64, numbers of frames; -1 for none, where ``has_reference`` will be False.
        """
        none = keyframes.new_full((1,), -1)
        return torch.cat([none, keyframes])[torch.searchsorted(keyframes, frames)]

    @abstractmethod
    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor]:
        """Merge n frames.

        Args:
            patches: ``[n, M, D]``, the patch tokens of n non-keyframes.
            reference: ``[n, M, D]``, the patch tokens of each one's `reference_frames`.
            has_reference: ``[n]`` bool, False before the first keyframe (T_p = 0 in Eq. 5).
            query: ``[Dq]``, or None when nothing was asked.

        Returns:
            ``[n, T, D]``, or a list of n tensors ``[T_i, D]`` when frames differ.
        """

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor] | None:
        """How much each patch counts in each merged token, where a token is a weighted sum.

        Some models feed further features of the same patches into later layers (the deepstack of
        Qwen3-VL); they are merged with these weights.

        Args:
            patches, reference, has_reference, query: As for ``forward``.

        Returns:
            ``[n, T, M]`` in at least float32, or a list of n tensors ``[T_i, M]``; None where the
            tokens are no weighted sums of a frame's own patches: the plain mean is taken then.
        """
        return None


def takes_text_embedding(merger: TokenMerger) -> bool:
    """Whether a merger's query is the frame encoder's text embedding, and as wide as that."""
    return merger.query_source in ("frame_encoder", "frame_encoder_raw")
