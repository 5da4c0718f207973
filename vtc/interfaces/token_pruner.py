"""The interface of pruners: mergers that keep some tokens of a frame unchanged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.interfaces.token_merger import TokenMerger

if TYPE_CHECKING:
    from vtc.interfaces.token_budget import VideoPatches


class TokenPruner(TokenMerger):
    """Keeps some tokens of each frame unchanged and drops the others.

    A pruner returns the indices of the tokens it keeps, so models with positions in time, height
    and width (M-RoPE) read each token at its original position. It sees the tokens that a keyframe
    would have; in a model that pools its patches, a merger sees the patches before pooling. A
    pruner with ``frames_together = 1`` works with every budget, which sets the number of tokens
    that each frame keeps.
    """

    tokens_per_frame: int = -1

    uses_survey: ClassVar[bool] = False
    """True: `survey` sees the whole video first, and `keep` gets its result."""

    uses_saliency: ClassVar[bool] = False
    """True: `keep` gets the attention that each token receives in a layer of the vision tower. It
    is computed in that layer only; the tower still uses SDPA or FlashAttention."""

    def survey(self, patches: VideoPatches) -> Any:
        """Return a summary of the whole video for `keep`: a few vectors, not its patches."""
        return None

    @abstractmethod
    def keep(
        self,
        patches: Tensor,
        reference: Tensor,
        has_reference: Tensor,
        query: Tensor | None,
        tokens: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Choose the tokens of n frames.

        A pruner with `uses_survey` has a further argument ``survey=None``, the result of `survey`;
        without it each frame counts as a separate video. A pruner with `uses_saliency` has a
        further argument ``saliency=None``, ``[n, M]`` float32.

        Args:
            patches, reference, has_reference, query: As for `TokenMerger.forward`.
            tokens: The number of tokens that each of the n frames keeps, from 1 to M, if a budget
                sets it; None: the pruner's options decide.

        Returns:
            For each frame ``[T_i]`` int64, the indices of the patches to keep, ascending; T_i is
            ``tokens[i]`` if ``tokens`` is given.

        Raises:
            ValueError, TypeError, RuntimeError: As `TokenMerger.forward`.
        """

    def forward(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor]:
        indices = self.keep(patches, reference, has_reference, query)
        frames = [frame[keep] for frame, keep in zip(patches, indices, strict=True)]
        count = min(self.tokens_per_frame, patches.shape[1])
        if count < 0 or any(len(frame) != count for frame in frames):
            return frames
        return torch.stack(frames) if frames else patches[:, :count]

    def weights(
        self, patches: Tensor, reference: Tensor, has_reference: Tensor, query: Tensor | None
    ) -> Tensor | list[Tensor]:
        exact, count = torch.promote_types(patches.dtype, torch.float32), patches.shape[1]
        indices = self.keep(patches, reference, has_reference, query)
        return [F.one_hot(keep, count).to(exact) for keep in indices]


def takes_budget(merger: TokenMerger) -> bool:
    """Return whether a merger works with a `vtc.TokenBudget`.

    The merger must merge frames one by one, and either be a `vtc.TokenPruner` or make one token
    per frame and define `TokenMerger.log_mass`.
    """
    if merger.frames_together != 1 or isinstance(merger, TokenPruner):
        return merger.frames_together == 1
    return merger.tokens_per_frame == 1 and type(merger).log_mass is not TokenMerger.log_mass
