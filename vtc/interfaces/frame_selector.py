"""The interface of frame selectors, which choose the keyframes of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vtc.interfaces.part import Part

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The keyframes of a video.

    Attributes:
        keyframes: ``[K']`` int64, ascending and unique, K' at most the option ``keyframes``.
        relevance: ``[N]`` float32, the score that ranks the frames; None if the selector does not
            rank them.
    """

    keyframes: Tensor
    relevance: Tensor | None


class FrameSelector(Part, ABC):
    """Chooses the keyframes of a video from frame embeddings.

    Selectors are pure: no state between calls, no file access, any device and dtype.
    """

    uses_query: ClassVar[bool] = True
    """False: ``query`` is ignored, and a call without a query is fine."""
    uses_embeddings: ClassVar[bool] = True
    """False: the frame encoder is not run, and ``embeddings`` is ``[N, 0]``."""
    encoder: str | None = None
    """The frame encoder of this selector, in the form that ``vtc.wrap`` takes; None: the encoder
    given to ``vtc.wrap``.

    It embeds the query too, so with ``uses_query`` it must be an encoder of text and images."""

    @abstractmethod
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        """Choose keyframes.

        Args:
            embeddings: ``[N, d]`` floating point, one row per frame in temporal order, each of
                length one; the shipped selectors use the direction only.
            query: ``[d]``, of length one, on the same device; None if there is no question.
            timestamps: ``[N]`` float64 seconds, ascending; None if unknown.

        Raises:
            ValueError: A shape is wrong, a number is not finite, or the query is missing.
            TypeError: The embeddings or the query are not floating point.
        """


class LazySelector(FrameSelector):
    """Chooses keyframes from the scores of a few frames.

    `search` is called in place of `select` unless the embeddings of all frames are at hand, as from
    a cache. The frames that it does not score are neither decoded nor embedded for the selection.
    """

    @abstractmethod
    def search(
        self, score: Callable[[Tensor], Tensor], count: int, timestamps: Tensor | None
    ) -> Selection:
        """Choose keyframes.

        Args:
            score: Takes the numbers of n frames, int64, and returns ``[n]`` float32 on the CPU, the
                cosine of each with the query. Frames are decoded in ascending order within a call,
                so few calls with many frames are fastest. A frame that was scored is not decoded
                again.
            count: N, the frames of the video.
            timestamps: As for `select`, on the CPU.

        Returns:
            As `select`, on the CPU; ``relevance`` may hold estimates for frames that were not
            scored.
        """
