"""Families whose processor hands the frames of a video to the model as still images."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.toolkit import input_device
from vtc.video_adapter import VideoAdapter
from vtc.video_span import Layout, VideoSpan
from vtc_adapters._pixels import pack_tensor, to_rgb
from vtc_adapters._wrapping import keeps_text, require_keeps, text_around


class StillsAdapter(VideoAdapter):
    """Which pictures are frames of a video, the caller says with ``vtc_frames``.

    A *picture* is what the vision tower turns into M tokens: a still image, a tile of a large one,
    or a frame. ``vtc_frames=8`` means one video of 8 frames in every row, ``[8, 6]`` in each row,
    and ``[[(1, 8)], []]`` that 8 frames follow one still picture in the first row, and that the
    second row has still pictures only.
    """

    modality = "image"
    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)

    def video_token_id(self, model: Any) -> int:
        return int(model.config.image_token_id)

    @abstractmethod
    def settings(self, processor: Any) -> Any:
        """The image or video processor whose mean and standard deviation frames have."""

    def slots(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[Tensor]:
        """For each row ``[P, M]``, the positions of its pictures' placeholders.

        Raises:
            ValueError: The placeholders do not fit the pictures.
        """
        height, width = self.slice_grid(model, inputs)
        each, rows = height * width, []
        for row, ids in enumerate(inputs["input_ids"]):
            places = (ids == self.video_token_id(model)).nonzero().flatten()
            places = places[places >= start]
            if len(places) % each:
                raise ValueError(
                    f"row {row} of input_ids has {len(places)} placeholders, which are no whole "
                    f"number of pictures of {each}; make input_ids and pixel_values with one call "
                    "of the processor"
                )
            rows.append(places.view(-1, each))
        found, given = sum(map(len, rows)), self.count(inputs)
        if found != given:
            raise ValueError(
                f"input_ids has placeholders for {found} pictures, but pixel_values holds {given}; "
                "make both with one call of the processor"
            )
        return rows

    def count(self, inputs: Mapping[str, Any]) -> int:
        """The pictures in ``pixel_values``."""
        return len(inputs["pixel_values"])

    def numbers(self, inputs: Mapping[str, Any], slots: list[Tensor]) -> list[int]:
        """For each row, the number of its first picture in ``pixel_values``."""
        counts = torch.tensor([0, *map(len, slots)])
        numbers: list[int] = counts.cumsum(0)[:-1].tolist()
        return numbers

    def spans(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[VideoSpan]:
        slots, grid = self.slots(model, inputs, start), self.slice_grid(model, inputs)
        spans = []
        for row, (pictures, number, videos) in enumerate(
            zip(slots, self.numbers(inputs, slots), _declared(inputs, slots), strict=True)
        ):
            for first, frames in videos:
                at = pictures[first : first + frames]
                none, text = at[:0, 0], self.wrapping(at)
                spans.append(VideoSpan(row, at, none, grid, 1, text, number + first))
        return spans

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        return {"pixel_values": inputs["pixel_values"][[video + number for number in slices]]}

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        return to_rgb(self.settings(processor), pixels["pixel_values"])

    def stills(
        self, model: Any, inputs: Mapping[str, Any], layout: Layout
    ) -> list[tuple[int, int, Tensor]]:
        if inputs.get("pixel_values") is None:
            return []
        slots = self.slots(model, inputs, layout.start)
        found = []
        for row, (pictures, number, videos) in enumerate(
            zip(slots, self.numbers(inputs, slots), _declared(inputs, slots), strict=True)
        ):
            frames = {first + n for first, count in videos for n in range(count)}
            for picture in sorted(set(range(len(pictures))) - frames):
                found.append((row, int(pictures[picture, 0]), number + picture))
        if not found:
            return []
        chosen = self.pixels(inputs, 0, [number for _, _, number in found])
        device = input_device(model)
        encoded = self.encode(model, {name: value.to(device) for name, value in chosen.items()})
        return [
            (row, first, tokens)
            for (row, first, _), tokens in zip(found, encoded.tokens, strict=True)
        ]

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        return pack_tensor(rows)

    def could_be_frames(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        if inputs.get("pixel_values") is None:
            return False
        visual = inputs["input_ids"] == self.video_token_id(model)
        runs = visual[:, 1:] & ~visual[:, :-1]  # no prompt begins with a picture's own tokens
        return bool((runs.sum(1) > 1).any())


class WrappedStillsAdapter(StillsAdapter):
    """Frames as still images with text around each, which an option keeps or drops."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of families with text around each frame.

        Attributes:
            wrapping: Which frames keep the text around them: ``"keyframes"``, ``"all"`` or
                ``"none"``.
        """

        wrapping: Literal["all", "keyframes", "none"] = "keyframes"

        def __post_init__(self) -> None:
            require_keeps(self.wrapping)

    config: Config
    placeholder_per_slice = True
    marks = (1, 1)
    """How many tokens stand right before the placeholders of a frame, and right after them."""

    def wrapping(self, slots: Tensor) -> tuple[Tensor, ...]:
        return text_around(slots, *self.marks)

    def keeps_wrapping(self, is_keyframe: Tensor) -> Tensor:
        return keeps_text(self.config.wrapping, is_keyframe)


def one_token_each(processor: Any, length: str) -> Any:
    """A processor that writes one placeholder a picture; ``length`` names its own number."""
    brief = copy.copy(processor)
    setattr(brief, length, 1)
    return brief


def _declared(inputs: Mapping[str, Any], slots: list[Tensor]) -> list[list[tuple[int, int]]]:
    """For each row its videos, as (the first picture, the number of frames).

    Raises:
        ValueError: ``vtc_frames`` does not fit the pictures.
    """
    given: Any = inputs.get("vtc_frames")
    given = given.tolist() if isinstance(given, Tensor) else given
    rows = [given] * len(slots) if isinstance(given, int) else list(given)
    if len(rows) != len(slots):
        raise ValueError(
            f"vtc_frames={given!r}: allowed is one number, or a list of one for each of the "
            f"{len(slots)} rows"
        )
    declared = []
    for row, (videos, pictures) in enumerate(zip(rows, slots, strict=True)):
        if isinstance(videos, int):
            if videos not in (0, len(pictures)):
                raise ValueError(
                    f"vtc_frames says {videos} frames for row {row}, which has {len(pictures)} "
                    "pictures (tiles of a large image are pictures, too): where still images "
                    "stand beside a video, give (first picture, frames) of each video, as in "
                    "vtc_frames=[[(1, 8)]]"
                )
            videos = [(0, videos)] if videos else []
        end = 0
        for first, frames in videos:
            if not (end <= first < first + frames <= len(pictures)):
                raise ValueError(
                    f"vtc_frames says {frames} frames from picture {first} in row {row}; allowed "
                    f"are pictures {end} to {len(pictures) - 1}, in order"
                )
            end = first + frames
        declared.append([(int(first), int(frames)) for first, frames in videos])
    return declared
