"""Text that a processor writes around each slice: a timestamp, the number of the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.part import require


def require_frame_text(frame_text: object) -> None:
    """Raise ValueError unless the option says which slices keep the text around them."""
    ok = frame_text in ("all", "keyframes", "none")
    require(ok, "frame_text", frame_text, "'all', 'keyframes' or 'none'")


def keeps_text(frame_text: str, is_keyframe: Tensor) -> Tensor:
    """Choose the slices that keep the text around them: ``[N]`` bool, as ``is_keyframe`` is."""
    if frame_text == "keyframes":
        return is_keyframe.clone()
    return torch.full_like(is_keyframe, frame_text == "all")


def text_around(slots: Tensor, opening: int, closing: int) -> tuple[Tensor, ...]:
    """Return the positions of the text around each slice.

    Text between two slices belongs to the second, except for the closing marks of the first. Text
    before the opening marks of the first slice looks like the user's own and stays.

    Args:
        slots: ``[N, M]`` int64, the positions of the slices' placeholders.
        opening: The number of marks right before the first placeholder of a slice.
        closing: The number of marks right after the last one.

    Returns:
        For each slice ``[w_n]`` int64.
    """
    first, last = slots[:, 0].cpu(), slots[:, -1].cpu() + 1
    begins = torch.cat([first[:1] - opening, last[:-1] + closing]).tolist()
    return tuple(
        torch.cat([torch.arange(begin, own), torch.arange(end, end + closing)])
        for begin, own, end in zip(begins, first.tolist(), last.tolist(), strict=True)
    )


def written_out(
    processor: Any, prompt: str, *, videos: Sequence[str] = (), images: Sequence[str] = ()
) -> str:
    """Replace the marks of a prompt with texts, by the stock processor's own method.

    Args:
        prompt: The chat template's result.
        videos, images: The text for each mark of a video and of an image, in order.
    """
    written: list[str] = processor.get_text_with_replacements(
        [prompt], videos_replacements=list(videos), images_replacements=list(images)
    )[0]
    return written[0]
