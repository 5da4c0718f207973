"""Families whose processor writes text around each slice: a timestamp, the number of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtc.part import require
from vtc.video_adapter import VideoAdapter


class WrappedSlices(VideoAdapter):
    """Text around slices may cost more than a merged token; an option says which slices keep it."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of families with text around each slice.

        Attributes:
            wrapping: Which slices keep the text around them: ``"keyframes"``, ``"all"`` or
                ``"none"``.
        """

        wrapping: Literal["all", "keyframes", "none"] = "keyframes"

        def __post_init__(self) -> None:
            allowed = ("all", "keyframes", "none")
            require(self.wrapping in allowed, "wrapping", self.wrapping, f"one of {allowed}")

    config: Config
    placeholder_per_slice = True
    marks = (1, 1)
    """How many tokens stand right before and right after the placeholders of a slice."""

    def wrapping(self, slots: Tensor) -> tuple[Tensor, ...]:
        """What stands between two slices belongs to the second, but for the first one's marks.

        Text before the marks of the first slice cannot be told from the user's own; it stays.
        """
        opening, closing = self.marks
        first, last = slots[:, 0].cpu(), slots[:, -1].cpu() + 1
        begins = torch.cat([first[:1] - opening, last[:-1] + closing]).tolist()
        return tuple(
            torch.cat([torch.arange(begin, own), torch.arange(end, end + closing)])
            for begin, own, end in zip(begins, first.tolist(), last.tolist(), strict=True)
        )

    def keeps_wrapping(self, is_keyframe: Tensor) -> Tensor:
        if self.config.wrapping == "keyframes":
            return is_keyframe.clone()
        return torch.full_like(is_keyframe, self.config.wrapping == "all")
