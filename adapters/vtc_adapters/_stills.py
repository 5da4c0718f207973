"""Families whose processor hands the frames of a video to the model as still images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_adapter import VideoAdapter
from vtc.interfaces.video_span import Layout, SliceFeatures, VideoSpan
from vtc.pipeline.modules import input_device
from vtc_adapters._declared import declared_videos
from vtc_adapters._frame_text import keeps_text, require_frame_text, text_around
from vtc_adapters._pixels import pack_tensor, to_rgb


class StillsAdapter(VideoAdapter):
    """Which pictures are frames of a video, the caller says with ``vtc_frames``.

    ``vtc_frames=8`` means one video of 8 frames in every row, ``[8, 6]`` one in each row, and
    ``[[(1, 8)], []]`` that 8 frames follow one still picture in the first row, and that the second
    row has still pictures only. A picture may be cut into *tiles*; a frame may not.
    """

    modality = "image"
    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    projectors = ("model.multi_modal_projector",)
    vision_towers = ("model.vision_tower",)
    tiling: ClassVar[str] = ""
    """The switch by which the processor cuts pictures into tiles; empty where it never does."""

    def video_token_id(self, model: Any) -> int:
        return int(model.config.image_token_id)

    def settings(self, processor: Any) -> Any:
        """The image or video processor that frames go through."""
        return processor.image_processor

    def pictures(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[list[Tensor]]:
        """For each row its pictures: the positions ``[tiles, M]`` of their placeholders.

        Raises:
            ValueError: The placeholders do not fit the pictures.
        """
        height, width = self.slice_grid(model, inputs)
        each, rows = height * width, []
        for row, ids in enumerate(inputs["input_ids"]):
            places = (ids == self.video_token_id(model)).nonzero().flatten()
            runs = self.runs(places[places >= start], each)
            if any(len(run) % each for run in runs):
                raise ValueError(
                    f"row {row} of input_ids has {len(places)} placeholders, which are no whole "
                    f"number of pictures of {each}; make input_ids and pixel_values with one call "
                    "of the processor"
                )
            rows.append([run.view(-1, each) for run in runs])
        found = sum(len(picture) for pictures in rows for picture in pictures)
        given = self.count(inputs)
        if found != given:
            raise ValueError(
                f"input_ids has placeholders for {found} pictures, but pixel_values holds {given}; "
                "make both with one call of the processor"
            )
        return rows

    def runs(self, places: Tensor, each: int) -> list[Tensor]:
        """The placeholders of a row, picture by picture, where no text stands between them."""
        return list(torch.split(places, each))

    def count(self, inputs: Mapping[str, Any]) -> int:
        """The pictures and tiles in ``pixel_values``."""
        return len(inputs["pixel_values"])

    def numbers(self, inputs: Mapping[str, Any], rows: list[list[Tensor]]) -> list[int]:
        """For each row, the number of its first picture in ``pixel_values``."""
        counts = [0, *(sum(map(len, pictures)) for pictures in rows)]
        return list(accumulate(counts))[:-1]

    def spans(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[VideoSpan]:
        grid, spans = self.slice_grid(model, inputs), []
        for row, (pictures, number, videos) in enumerate(self._rows(model, inputs, start)):
            for first, frames in videos:
                chosen = pictures[first : first + frames]
                for place, picture in enumerate(chosen, first):
                    if len(picture) != 1:
                        raise ValueError(
                            f"vtc_frames says that picture {place} of row {row} is a frame, but "
                            f"it was cut into {len(picture)} tiles; give {self.tiling}=False to "
                            "the processor"
                        )
                before = sum(map(len, pictures[:first]))
                at = torch.cat(chosen)
                none, text = at[:0, 0], self.frame_text(at)
                spans.append(VideoSpan(row, at, none, grid, 1, text, number + before))
        return spans

    def _rows(
        self, model: Any, inputs: Mapping[str, Any], start: int
    ) -> Iterator[tuple[list[Tensor], int, list[tuple[int, int]]]]:
        """Each row's pictures, the number of the first one, and which are videos."""
        rows = self.pictures(model, inputs, start)
        declared = declared_videos(inputs["vtc_frames"], list(map(len, rows)), self.tiling)
        return zip(rows, self.numbers(inputs, rows), declared, strict=True)

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        return {"pixel_values": inputs["pixel_values"][[video + number for number in slices]]}

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        whole = {self.tiling: False} if self.tiling else {}
        images = list(frames.permute(0, 3, 1, 2))
        batch = processor.image_processor(images, return_tensors="pt", **whole)
        return {name: batch[name] for name in self.video_inputs}

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        encoded = model.get_image_features(pixels["pixel_values"], return_dict=True)
        return SliceFeatures(torch.stack(list(encoded.pooler_output)))

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        return to_rgb(self.settings(processor), pixels["pixel_values"])

    def stills(
        self, model: Any, inputs: Mapping[str, Any], layout: Layout
    ) -> list[tuple[int, int, Tensor]]:
        if inputs.get("pixel_values") is None:
            return []
        found: list[tuple[int, int, int]] = []
        rows = self._rows(model, inputs, layout.start)
        for row, (pictures, number, videos) in enumerate(rows):
            frames = {first + n for first, count in videos for n in range(count)}
            for place, picture in enumerate(pictures):
                tiles = enumerate(picture, number)
                if place not in frames:
                    found += [(row, int(slots[0]), tile) for tile, slots in tiles]
                number += len(picture)
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
        pictures = inputs.get("pixel_values")
        return pictures is not None and len(pictures) > len(inputs["input_ids"])


class FrameTextStillsAdapter(StillsAdapter):
    """Frames as still images with text around each, which an option keeps or drops."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of families with text around each frame.

        Attributes:
            frame_text: Which frames keep the text around them (a timestamp, a number, markers):
                ``"keyframes"``, ``"all"`` or ``"none"``.
        """

        frame_text: Literal["all", "keyframes", "none"] = "keyframes"

        def __post_init__(self) -> None:
            require_frame_text(self.frame_text)

    config: Config
    renamed_options = {"wrapping": "frame_text"}
    placeholder_per_slice = True
    marks = (1, 1)
    """How many tokens stand right before the placeholders of a frame, and right after them."""

    def frame_text(self, slots: Tensor) -> tuple[Tensor, ...]:
        return text_around(slots, *self.marks)

    def runs(self, places: Tensor, each: int) -> list[Tensor]:
        ends = (places.diff() != 1).nonzero().flatten() + 1
        return [run for run in places.tensor_split(ends.cpu()) if len(run)]

    def could_be_frames(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        if inputs.get("pixel_values") is None:
            return False
        visual = inputs["input_ids"] == self.video_token_id(model)
        runs = visual[:, 1:] & ~visual[:, :-1]  # marks stand before every picture
        return bool((runs.sum(1) > 1).any())

    def keeps_frame_text(self, is_keyframe: Tensor) -> Tensor:
        return keeps_text(self.config.frame_text, is_keyframe)


def one_token_each(processor: Any, length: str) -> Any:
    """A processor that writes one placeholder a picture; ``length`` names its own number."""
    brief = copy.copy(processor)
    setattr(brief, length, 1)
    return brief
