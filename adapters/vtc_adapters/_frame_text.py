"""Text that a processor writes around each slice, such as a timestamp or a frame number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.part import require


def require_frame_text(frame_text: object) -> None:
    """Raise ValueError unless the option ``frame_text`` has one of its three values."""
    ok = frame_text in ("all", "keyframes", "none")
    require(ok, "frame_text", frame_text, "'all', 'keyframes' or 'none'")


def keeps_text(frame_text: str, is_keyframe: Tensor) -> Tensor:
    """Return the mask ``[N]`` of slices that keep their text, given the mask of keyframes."""
    if frame_text == "keyframes":
        return is_keyframe.clone()
    return torch.full_like(is_keyframe, frame_text == "all")


def text_around(slots: Tensor, opening: int, closing: int) -> tuple[Tensor, ...]:
    """Return the positions of the text around each slice.

    Text between two slices belongs to the second, except for the closing marks of the first. Text
    before the opening marks of the first slice counts as the user's own and stays.

    Args:
        slots: ``[N, M]`` int64, the positions of the slices' placeholders.
        opening: The number of marks right before the first placeholder of a slice.
        closing: The number of marks right after the last one.

    Returns:
        For each slice ``[w_n]`` int64.
    """
    first, last = slots[:, 0].tolist(), (slots[:, -1] + 1).tolist()
    text, begin = [], max(first[0] - opening, 0)
    for own, end, following in zip(first, last, [*first[1:], last[-1] + closing], strict=True):
        close = max(end, min(end + closing, following))  # pictures may be adjacent
        text.append(torch.cat([torch.arange(min(begin, own), own), torch.arange(end, close)]))
        begin = close
    return tuple(text)


def without_missing_marks(
    ids: Tensor, slots: Tensor, text: Sequence[Tensor], placeholder: int
) -> tuple[Tensor, ...]:
    """Drop the first slice's opening marks and the last slice's closing marks if they are missing.

    A hand-written prompt may have other text or pictures at their positions.

    Args:
        ids: ``[L]`` int64, the row.
        slots: ``[N, M]`` int64, the positions of the slices' placeholders.
        text: For each slice ``[w_n]`` int64, from `text_around`.
        placeholder: The id of the placeholders.

    Returns:
        For each slice ``[w_n]`` int64.
    """

    def before(n: int) -> Tensor:
        return text[n][text[n] < int(slots[n, 0])]

    def after(n: int) -> Tensor:
        return text[n][text[n] > int(slots[n, -1])]

    def are_marks(places: Tensor, others: Tensor | None) -> bool:
        if int(places[-1]) >= len(ids) or bool((ids[places] == placeholder).any()):
            return False
        return others is None or torch.equal(ids[places], ids[others[-len(places) :]])

    ids, checked, several = ids.cpu(), list(text), len(text) > 1
    opening, closing = before(0), after(-1)
    if len(opening) and not are_marks(opening, before(1) if several else None):
        checked[0] = checked[0][len(opening) :]
    if len(closing) and not are_marks(closing, after(0) if several else None):
        checked[-1] = checked[-1][: len(checked[-1]) - len(closing)]
    return tuple(checked)


def insert_texts(
    processor: Any, prompt: str, *, videos: Sequence[str] = (), images: Sequence[str] = ()
) -> str:
    """Replace the placeholders of a prompt with texts, using the stock processor's own method.

    Args:
        prompt: The chat template's result.
        videos, images: The text for each video placeholder and for each image placeholder, in
            order.
    """
    written: list[str] = processor.get_text_with_replacements(
        [prompt], videos_replacements=list(videos), images_replacements=list(images)
    )[0]
    return written[0]
