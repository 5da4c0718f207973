"""The interface of token mergers, which reduce the frames between keyframes to a few tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from vtc.interfaces.part import Part

QuerySource = Literal["language_model", "frame_encoder", "frame_encoder_raw"]


class TokenMerger(Part, nn.Module, ABC):
    """Merges the patch tokens of each non-keyframe into a few tokens.

    Mergers are pure: no state between calls except parameters, any device and dtype, and the same
    result for any chunk size. A merger may set the attributes below on the class or, if they depend
    on options, in ``__init__``.
    """

    tokens_per_frame: int = 1
    """T, the number of tokens of a merged frame. 0: the frame is dropped; -1: the number varies."""

    frames_together: int = 1
    """The number of consecutive non-keyframes that are merged as a group. A call gets whole
    groups, counted from the first non-keyframe; only the last group may be shorter."""

    query_source: QuerySource | None = "language_model"
    """Where ``query`` comes from.

    ``"language_model"``: the mean of the language model's input embeddings of the query's tokens,
    in the space of the patches. ``"frame_encoder"``: the frame encoder's text embedding, of length
    one; ``"frame_encoder_raw"``: the same before normalisation. None: the merger takes no query."""

    uses_reference: bool = True
    """False: ``reference`` is ignored. If such a merger takes no query either and merges frames one
    by one, its tokens can be cached for all questions about a video."""

    uses_previous_frame: bool = False
    """True: ``reference`` is the frame before each frame, and `reference_frames` is not called. It
    is carried from chunk to chunk, so one more frame is in memory."""

    needs_training: bool = False
    """True: the merged tokens are meaningless until the merger's parameters are trained."""

    def build(self, patch_dim: int, query_dim: int) -> None:  # noqa: B027 - optional hook
        """Create the parameters. ``vtc.wrap`` calls this once.

        Args:
            patch_dim: D, the width of the patches.
            query_dim: Dq, the width of the query.
        """

    def reference_frames(self, frames: Tensor, keyframes: Tensor) -> Tensor:
        """Return the frame that each non-keyframe is compared with: the nearest keyframe before it.

        A merger may override this. All reference frames of a video are in memory at once, so
        return few different ones.

        Args:
            frames: ``[n]`` int64, the indices of the non-keyframes, ascending.
            keyframes: ``[K]`` int64, the indices of the keyframes, ascending.

        Returns:
            ``[n]`` int64, indices of frames; -1 for none (``has_reference`` is then False).
        """
        none = keyframes.new_full((1,), -1)
        return torch.cat([none, keyframes])[torch.searchsorted(keyframes, frames)]

    @abstractmethod
    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor]:
        """Merge n frames.

        Args:
            patches: ``[n, M, D]`` floating point, the patch tokens of n non-keyframes; M >= 1, and
                n may be 0.
            reference: ``[n, M, D]``, the patch tokens of each frame's reference frame (see
                `reference_frames`), or of the frame before it with `uses_previous_frame`.
            has_reference: ``[n]`` bool, False before the first keyframe (T_p = 0 in Eq. 5 of
                ViLAMP) or for the first frame; ``reference`` may hold anything there.
            query: ``[Dq]``; None if there is no question.

        Returns:
            ``[n, T, D]``, or a list of n tensors ``[T_i, D]`` if the number of tokens varies, in
            the dtype of the patches. The shipped mergers compute in at least float32.

        Raises:
            ValueError: A shape is wrong, or the query is missing.
            TypeError: The patches are not floating point, or ``has_reference`` is not bool.
            RuntimeError: `build` creates parameters and was not called.
        """

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor] | None:
        """Return the weight of each patch in each merged token.

        Some models feed further features of the same patches into later layers (the deepstack of
        Qwen3-VL); these are merged with the same weights.

        Args:
            patches, reference, has_reference, query: As for ``forward``.

        Returns:
            ``[n, T, M]`` in at least float32, or a list of n tensors ``[T_i, M]``. None if the
            tokens are not weighted sums of a frame's own patches; the mean is used instead.
        """
        return None

    def position_weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor] | None:
        """Return the weight of each place of a frame in the position of each token.

        Models with positions in time, height and width (M-RoPE) read a token in the middle of its
        places. Called for such models only; a frame with a single token is read in its middle.

        Args:
            patches, reference, has_reference, query: As for ``forward``.

        Returns:
            ``[n, T, M]``, or a list of n tensors ``[T_i, M]``, with rows that sum to one. None if
            tokens belong to no places; they are read in the middle of their frame.
        """
        return None

    def log_mass(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor:
        """Return the weight of each frame in a token that several frames share.

        A merger that defines this accepts any subset of a frame's patches and is a weighted mean:
        the mass-weighted mean of two sets' tokens is the token of their union. A budget can then
        give a frame several tokens, one for each subset of its patches, or several frames one
        token.

        Args:
            patches, reference, has_reference, query: As for ``forward``.

        Returns:
            ``[n]`` float32, the natural logarithm of the mass; for a softmax the logarithm of the
            sum of its exponentials.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define log_mass")


def takes_text_embedding(merger: TokenMerger) -> bool:
    """Return whether the query of a merger is the frame encoder's text embedding."""
    return merger.query_source in ("frame_encoder", "frame_encoder_raw")
