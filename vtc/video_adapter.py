"""The interface of adapters: what is particular to one family of models."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling


@dataclass(frozen=True)
class VideoSpan:
    """Where the placeholders of one video stand in one row of the caller's ``input_ids``.

    Attributes:
        row: The row of the batch.
        slots: ``[N, M]`` int64, the positions of each slice's M placeholders. For a placeholder
            that was never expanded every slot is that one position (a view without storage).
        tail: ``[t]`` int64, the positions of placeholders after the last slice.
        grid: (h, w) with ``M = h * w``, where the slots lie on a grid.
        frames_per_slice: How many frames the vision tower turns into one slice.
    """

    row: int
    slots: Tensor
    tail: Tensor
    grid: tuple[int, int] | None = None
    frames_per_slice: int = 1

    def __len__(self) -> int:
        return int(self.slots.shape[0])


@dataclass(frozen=True)
class SliceFeatures:
    """What the vision tower and the projector make of n slices.

    Attributes:
        tokens: ``[n, M, D]``, what a keyframe contributes.
        dense: ``[n, P, D]``, what is merged, where it differs from ``tokens``; None where not.
        extra: Further features of the tokens (deepstack), each ``[n, M, D]``.
    """

    tokens: Tensor
    dense: Tensor | None = None
    extra: list[Tensor] = field(default_factory=list)

    @property
    def patches(self) -> Tensor:
        """``[n, P, D]``, the features to merge."""
        return self.tokens if self.dense is None else self.dense


class VideoAdapter(ABC):
    """One family of models; an object without state, registered under ``config.model_type``.

    ``pixels`` below is what this family's vision tower takes for some slices: tensors by name.
    """

    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    """The arguments of ``forward`` that carry raw video; the first one decides if there is any."""

    # --- where the videos are

    @abstractmethod
    def spans(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], start: int = 0
    ) -> list[VideoSpan]:
        """Find the videos of a processor's ``inputs``, in the order of their pixels.

        Args:
            start: Positions before it belong to earlier turns, which the cache holds already.

        Raises:
            ValueError: The placeholders do not fit the pixels.
        """

    @abstractmethod
    def slice_grid(self, model: PreTrainedModel) -> tuple[int, int]:
        """The grid (h, w) of the tokens of one slice; M is h * w."""

    def video_token_id(self, model: PreTrainedModel) -> int:
        """The id of the placeholder of videos."""
        return int(model.config.video_token_id)

    def tail_length(self) -> int:
        """t, the number of placeholders after the last slice."""
        return 0

    # --- from pixels to features

    @abstractmethod
    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        """The part of a processor's ``inputs`` that belongs to some slices of one video."""

    @abstractmethod
    def preprocess(self, processor: Any, frames: Tensor) -> dict[str, Tensor]:
        """Make ``pixels`` of uint8 RGB frames ``[n, H, W, 3]`` as the stock processor would."""

    @abstractmethod
    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        """Undo ``preprocess``: uint8 RGB frames ``[n, H', W', 3]`` for the frame encoder."""

    @abstractmethod
    def encode(self, model: PreTrainedModel, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Run the vision tower and the projector on some slices."""

    def tail(self, model: PreTrainedModel) -> Tensor | None:
        """``[t, D]``, the features of the placeholders after the last slice, or None."""
        return None

    # --- into the language model

    @abstractmethod
    def pack(self, videos: list[Tensor]) -> BaseModelOutputWithPooling:
        """Put the features ``[L_v, D]`` of the videos in the form that the stock model takes."""

    def expands_for_beams(self, videos: list[Tensor]) -> bool:
        """Whether the stock ``generate`` repeats ``pack``'s result rightly for several beams."""
        return True

    def encode_images(
        self, model: PreTrainedModel, inputs: dict[str, Any]
    ) -> BaseModelOutputWithPooling | None:
        """Encode the still images beside a video, as the stock ``generate`` does.

        Takes the arguments of ``get_image_features`` out of ``inputs``: the stock ``forward``
        refuses pixels beside features that are already there.
        """
        if inputs.get("pixel_values") is None:
            return None
        encoder = model.base_model.get_image_features
        names = [name for name in inspect.signature(encoder).parameters if name in inputs]
        features: BaseModelOutputWithPooling = encoder(
            **{name: inputs.pop(name) for name in names}, return_dict=True
        )
        return features
