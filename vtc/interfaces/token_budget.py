"""The interface of token budgets, which share a number of tokens among the frames of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from vtc.interfaces.part import Part

if TYPE_CHECKING:
    from torch import Tensor

SHARED = -1
"""The value of `Allocation.tokens` for a frame that continues the group of the frame before it."""


T = TypeVar("T")


class VideoPatches:
    """The patches of all N slices of a video, in order; can be iterated over repeatedly.

    Patches that fit in memory are kept; for the others each iteration runs the vision tower again.

    Args:
        read: Returns the chunks of one iteration, ``[n, M, D]`` each. Results must not depend on
            how the video is cut into chunks.
    """

    def __init__(self, read: Callable[[], Iterator[Tensor]]) -> None:
        self._read = read
        self._results: dict[Hashable, Any] = {}

    def __iter__(self) -> Iterator[Tensor]:
        return self._read()

    def once(self, key: Hashable, compute: Callable[[VideoPatches], T]) -> T:
        """Return ``compute(self)``, computed once per key, so that budget and pruner share it."""
        if key not in self._results:
            self._results[key] = compute(self)
        result: T = self._results[key]
        return result


def _norms(patches: VideoPatches) -> Tensor:
    import torch

    lengths = [
        torch.linalg.vector_norm(frame.to(torch.promote_types(frame.dtype, torch.float32)), dim=-1)
        .mean()
        .float()
        for chunk in patches
        for frame in chunk
    ]
    return torch.stack(lengths).cpu() if lengths else torch.empty(0)


@dataclass(frozen=True)
class FrameStatistics:
    """Statistics of the N slices of a video. All tensors but ``patches`` are on the CPU.

    Attributes:
        keyframes: ``[K]`` int64, ascending; each keeps its M tokens.
        tokens_per_frame: M.
        count: N.
        relevance: ``[N]`` float32, the selector's score of each frame; None if it ranks nothing.
        previous_similarity: ``[N]`` float32 in [-1, 1], the cosine similarity of each frame's
            embedding to that of the frame before it, 0 for the first; None if the selector uses
            no embeddings.
        keyframe_similarity: ``[N]`` float32 in [-1, 1], the cosine similarity to the nearest
            keyframe before the frame, 0 if there is none; None if the selector uses no embeddings.
        timestamps: ``[N]`` float64 seconds; None if they are unknown.
        patches: The patches of all frames, on their device; None unless the budget has
            `TokenBudget.uses_patches`.
    """

    keyframes: Tensor
    tokens_per_frame: int
    count: int
    relevance: Tensor | None = None
    previous_similarity: Tensor | None = None
    keyframe_similarity: Tensor | None = None
    timestamps: Tensor | None = None
    patches: VideoPatches | None = None

    @property
    def norms(self) -> Tensor | None:
        """``[N]`` float32, the mean length of each frame's patches; None without ``patches``.

        Reads all patches, once.
        """
        return None if self.patches is None else self.patches.once("norms", _norms)


class TokenBudget(Part, ABC):
    """Decides how many tokens each non-keyframe gets.

    Budgets are pure: no state between calls. ``Config`` may have an option ``max_tokens``, the
    largest number of visual tokens of one video including its keyframes, or ``"auto"``, which
    fills the model's context; `max_tokens` returns it.
    """

    uses_patches: ClassVar[bool] = False
    """True: the vision tower sees all frames before `allocate`, which gets their patches."""

    @property
    def max_tokens(self) -> int | str:
        """The largest number of visual tokens of a video; ``"auto"``: all that the context fits."""
        limit: int | str = getattr(self.config, "max_tokens", "auto")
        return limit

    @abstractmethod
    def allocate(self, statistics: FrameStatistics, total: int) -> Tensor:
        """Share tokens among the non-keyframes.

        Args:
            statistics: Statistics of the frames. The keyframes fit: K * M <= the limit.
            total: The tokens left for the N - K non-keyframes, at least 0.

        Returns:
            ``[N]`` int64, the number of tokens of each frame, from 0 (the frame is dropped) to M
            (it keeps all of them); `SHARED` if it shares the single token of the frame before it,
            which has 1 token or is `SHARED` itself. The entries of keyframes are ignored, and no
            group spans a keyframe. The positive entries of the non-keyframes sum to at most
            ``total``.
        """
