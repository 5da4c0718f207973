"""The interface of frame selectors: which frames keep all their tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vtc.interfaces.part import Part

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The frames that a selector chose.

    Attributes:
        keyframes: ``[K']`` int64, ascending and unique, K' at most the number asked for.
        relevance: ``[N]`` float32, what the frames were ranked by; None where nothing is ranked.
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

    @property
    def encoder(self) -> str | None:
        """The frame encoder that this selector looks through, as ``vtc.wrap`` takes it.

        None: the one that ``vtc.wrap`` was given. It embeds the query too, so a selector with
        ``uses_query`` that names another must name one that knows text.
        """
        return None

    @abstractmethod
    def select(
        self, embeddings: Tensor, query: Tensor | None = None, timestamps: Tensor | None = None
    ) -> Selection:
        """Choose keyframes.

        Args:
            embeddings: ``[N, d]``, L2-normalised, one row a frame in order of time.
            query: ``[d]``, L2-normalised, on the same device; None when nothing was asked.
            timestamps: ``[N]`` float64 seconds, ascending.
        """
