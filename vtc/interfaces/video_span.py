"""Data between the core and the adapters: spans of placeholders, features, shortened rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtc.interfaces.renamed import warn_renamed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MERGED = -1
"""The value of `CompressedVideo.cells` for a token merged from a whole slice."""
TEXT = -2
"""The value of `CompressedVideo.cells` for text around a slice."""


@dataclass(frozen=True)
class VideoSpan:
    """The positions of one video's placeholders in one row of the caller's ``input_ids``.

    Attributes:
        row: The row of the batch.
        slots: ``[N, M]`` int64, the positions of each slice's M placeholders. In a lazy prompt
            all slots are the position of the one placeholder (a view without storage).
        tail: ``[t]`` int64, the positions of placeholders after the last slice.
        grid: (h, w) with ``M = h * w``; None if the slots are not on a grid.
        frames_per_slice: How many frames the vision tower turns into one slice.
        frame_text: For each slice ``[w_n]`` int64, the positions of the text that the processor
            writes around it (a timestamp, the frame's number); None if it writes none.
        number: The argument ``video`` of `VideoAdapter.pixels`; None for the video's index.
    """

    row: int
    slots: Tensor
    tail: Tensor
    grid: tuple[int, int] | None = None
    frames_per_slice: int = 1
    frame_text: tuple[Tensor, ...] | None = None
    number: int | None = None

    def __len__(self) -> int:
        return int(self.slots.shape[0])

    @property
    def first(self) -> int:
        """The first position of the video, with the text around its first slice."""
        return min([int(self.slots[0, 0]), *self._around(0)])

    @property
    def last(self) -> int:
        """The last position of the video, with the text around its last slice."""
        tail: list[int] = self.tail[-1:].tolist()
        return max([int(self.slots[-1, -1]), *self._around(-1), *tail])

    def _around(self, number: int) -> list[int]:
        positions: list[int] = [] if self.frame_text is None else self.frame_text[number].tolist()
        return positions

    @property
    def wrapping(self) -> tuple[Tensor, ...] | None:
        """Deprecated: the old name of ``frame_text``."""
        warn_renamed("VideoSpan.wrapping", "VideoSpan.frame_text")
        return self.frame_text


def _with_old_name(init: Any) -> Any:
    @functools.wraps(init)
    def __init__(self: VideoSpan, *args: Any, **kwargs: Any) -> None:
        if "wrapping" in kwargs:
            warn_renamed("VideoSpan(wrapping=...)", "VideoSpan(frame_text=...)")
            kwargs["frame_text"] = kwargs.pop("wrapping")
        init(self, *args, **kwargs)

    return __init__


VideoSpan.__init__ = _with_old_name(VideoSpan.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True)
class SliceFeatures:
    """The features of n slices, after the vision tower and the projector.

    Attributes:
        tokens: ``[n, M, D]``, the tokens of a keyframe.
        dense: ``[n, P, D]``, the patches to merge; None if they are ``tokens``.
        extra: Further features ``[n, M, D]`` of the same tokens for later layers of the language
            model (deepstack); merged with the weights of the tokens.
        hidden: ``[n, P', Dv]``, the ``last_hidden_state`` of the vision tower, which the stock
            model returns with its result; None if the family returns none.
        saliency: ``[n, M]`` float32, the attention that each token receives in a layer of the
            vision tower, see `VideoAdapter.token_saliency`; None unless a merger uses it.
    """

    tokens: Tensor
    dense: Tensor | None = None
    extra: tuple[Tensor, ...] = ()
    hidden: Tensor | None = None
    saliency: Tensor | None = None

    @property
    def patches(self) -> Tensor:
        """``[n, P, D]``, the features to merge."""
        return self.tokens if self.dense is None else self.dense

    def to(self, device: torch.device) -> SliceFeatures:
        """Return the features on a device; a model split over devices may project elsewhere."""
        return SliceFeatures(
            self.tokens.to(device),
            None if self.dense is None else self.dense.to(device),
            tuple(layer.to(device) for layer in self.extra),
            None if self.hidden is None else self.hidden.to(device),
            None if self.saliency is None else self.saliency.to(device),
        )


@dataclass(frozen=True)
class CompressedVideo:
    """The tokens of a video that the language model reads.

    Attributes:
        span: The positions of the video's placeholders.
        features: ``[F, D]``, keyframes and merged tokens in order of time, then the tail;
            ``[F, (1 + extra) * D]`` with `SliceFeatures.extra`.
        positions: ``[L]`` int64, the caller's positions that are kept: the placeholder that each
            feature replaces, and the text around slices.
        slices: ``[L - t]`` int64, the slice of each position.
        cells: ``[L - t]`` int64, its cell in the slice's grid; `MERGED` for a token merged from
            all cells, `TEXT` for text around the slice.
        seconds_per_slice: The time from one slice to the next; None if it is unknown.
        hidden: ``[K, P', Dv]``, `SliceFeatures.hidden` of the keyframes; None if it was not kept.
    """

    span: VideoSpan
    features: Tensor
    positions: Tensor
    slices: Tensor
    cells: Tensor
    seconds_per_slice: float | None = None
    hidden: Tensor | None = None

    @property
    def by_slice(self) -> tuple[Tensor, ...]:
        """The tokens ``[T_i, D]`` of each of the N slices; T_i is 0 for a dropped one."""
        import torch

        lengths = torch.bincount(self.slices[self.cells != TEXT], minlength=len(self.span))
        return torch.split(self.features[: int(lengths.sum())], lengths.tolist())


@dataclass(frozen=True)
class EncodedInput:
    """A video or a still image as the language model reads it.

    Attributes:
        row: The row of the batch.
        first: The position of its first placeholder in the caller's row.
        features: ``[F, D]``.
        slices: The tokens ``[T_i, D]`` of each slice; those of an image are one slice.
        hidden: See `CompressedVideo.hidden`.
    """

    row: int
    first: int
    features: Tensor
    slices: tuple[Tensor, ...]
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """The shortened rows of a batch.

    Attributes:
        rows: For each row ``[L_row]`` int64, the positions of the caller's row that are kept.
        row_starts: For each row the column of its first token after shortening and padding.
        videos: The videos in the order of their placeholders.
        mask: ``[B, L]``, the attention mask of the shortened, padded rows.
        start: The number of positions of the caller's rows that the cache holds.
        cached: The number of tokens that the cache holds.
        generating: Whether the rows go to ``generate``, not to ``forward``.
        cached_offsets: ``[B, 1]`` int64, the offset of positions after the cache from the number
            of cached tokens, as `VideoAdapter.position_offsets` returned it; None if unknown.
    """

    rows: list[Tensor]
    row_starts: list[int]
    videos: list[CompressedVideo]
    mask: Tensor
    start: int
    cached: int
    generating: bool
    cached_offsets: Tensor | None = None
