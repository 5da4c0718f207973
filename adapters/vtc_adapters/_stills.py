"""The base of families that read the frames of a video as still images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import EncodedInput, Layout, SliceFeatures, VideoSpan
from vtc.pipeline.modules import input_device
from vtc_adapters._declared import declared_videos
from vtc_adapters._frame_text import (
    keeps_text,
    require_frame_text,
    text_around,
    without_missing_marks,
)
from vtc_adapters._pixels import pack_tensor, stacked_if_equal, to_rgb
from vtc_adapters._tower import SeparateTower


class StillsAdapter(SeparateTower):
    """Families whose calls declare with ``vtc_frames`` which pictures are frames of a video.

    ``vtc_frames=8`` is one video of 8 frames in every row, and ``[8, 6]`` one in each row. In
    ``[[(1, 8)], []]`` 8 frames follow one still picture in the first row, and the second row has
    still pictures only. A picture may be cut into *tiles*; a frame may not.
    """

    modality = "image"
    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    projectors = ("model.multi_modal_projector",)
    vision_towers = ("model.vision_tower",)
    tiling: ClassVar[str] = ""
    """The processor's option that cuts pictures into tiles; empty if it has none."""

    def video_token_id(self, model: Any) -> int:
        """Return the id of the placeholder token of images."""
        return int(model.config.image_token_id)

    def settings(self, processor: Any) -> Any:
        """Return the image or video processor that processes the frames."""
        return processor.image_processor

    def pictures(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[list[Tensor]]:
        """Return the pictures of each row: the positions ``[tiles, M]`` int64 of placeholders.

        Args:
            start: The first position of this turn; earlier ones are in the cache.

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
                    f"row {row} of input_ids has {len(places)} placeholders, which is not a "
                    f"multiple of the {each} of a picture; make input_ids and pixel_values with "
                    "one call of the processor"
                )
            rows.append([run.view(-1, each) for run in runs])
        expected = sum(len(picture) for pictures in rows for picture in pictures)
        count = self.count(inputs)
        if expected != count:
            raise ValueError(
                f"input_ids has placeholders for {expected} pictures, but pixel_values holds "
                f"{count}; make both with one call of the processor"
            )
        return rows

    def runs(self, places: Tensor, each: int) -> list[Tensor]:
        """Split the positions ``[F * M]`` of a row's placeholders into pictures.

        Args:
            each: M. Pictures follow one another without text between them.
        """
        return list(torch.split(places, each))

    def count(self, inputs: Mapping[str, Any]) -> int:
        """Return the number of pictures and tiles in ``pixel_values`` ``[P, 3, H, W]``."""
        return len(inputs["pixel_values"])

    def numbers(self, inputs: Mapping[str, Any], rows: list[list[Tensor]]) -> list[int]:
        """Return for each row the index of its first picture in ``pixel_values``."""
        counts = [0, *(sum(map(len, pictures)) for pictures in rows)]
        return list(accumulate(counts))[:-1]

    def spans(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[VideoSpan]:
        """Find the pictures that ``vtc_frames`` declares; see `VideoAdapter.spans`.

        Raises:
            ValueError: ``vtc_frames`` or the placeholders do not fit the pictures, or a frame
                was cut into tiles.
        """
        grid, spans = self.slice_grid(model, inputs), []
        for row, (pictures, number, videos) in enumerate(self._rows(model, inputs, start)):
            for first, frames in videos:
                parts = pictures[first : first + frames]
                for place, picture in enumerate(parts, first):
                    if len(picture) != 1:
                        raise ValueError(
                            f"vtc_frames says that picture {place} of row {row} is a frame, but "
                            f"it was cut into {len(picture)} tiles; give {self.tiling}=False to "
                            "the processor"
                        )
                before = sum(map(len, pictures[:first]))
                at = torch.cat(parts)
                none, text = at[:0, 0], self.frame_text(at)
                if text is not None:
                    ids = inputs["input_ids"][row]
                    text = without_missing_marks(ids, at, text, self.video_token_id(model))
                spans.append(VideoSpan(row, at, none, grid, 1, text, number + before))
        return spans

    def _rows(
        self, model: Any, inputs: Mapping[str, Any], start: int
    ) -> Iterator[tuple[list[Tensor], int, list[tuple[int, int]]]]:
        """Yield each row's pictures, the index of the first one, and its videos."""
        rows = self.pictures(model, inputs, start)
        declared = declared_videos(inputs["vtc_frames"], list(map(len, rows)), self.tiling)
        return zip(rows, self.numbers(inputs, rows), declared, strict=True)

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        """Select ``pixel_values`` ``[n, 3, H, W]``; ``video`` is the index of the first frame."""
        return {"pixel_values": inputs["pixel_values"][[video + number for number in slices]]}

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixel_values`` ``[n, 3, H, W]``, without tiles, from frames ``[n, H, W, 3]``."""
        whole = {self.tiling: False} if self.tiling else {}
        images = list(rearrange(frames, "n h w c -> n c h w"))
        batch = processor.image_processor(images, return_tensors="pt", **whole)
        return {name: batch[name] for name in self.video_inputs}

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        """Return tokens ``[n, M, D]`` after the projector."""
        encoded = model.get_image_features(pixels["pixel_values"], return_dict=True)
        tokens = torch.stack(list(encoded.pooler_output))
        return SliceFeatures(tokens, hidden=encoded.last_hidden_state)

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        """Return ``[n, H, W, 3]`` uint8 RGB of ``pixel_values`` ``[n, 3, H, W]``."""
        return to_rgb(self.settings(processor), pixels["pixel_values"])

    def stills(
        self, model: Any, inputs: Mapping[str, Any], layout: Layout
    ) -> list[tuple[int, int, Tensor]]:
        """Encode the pictures that are not frames; see `VideoAdapter.stills`."""
        if inputs.get("pixel_values") is None:
            return []
        tiles: list[tuple[int, int, int]] = []
        rows = self._rows(model, inputs, layout.start)
        for row, (pictures, number, videos) in enumerate(rows):
            frames = {first + n for first, count in videos for n in range(count)}
            for place, picture in enumerate(pictures):
                if place not in frames:
                    numbered = enumerate(picture, number)
                    tiles += [(row, int(slots[0]), tile) for tile, slots in numbered]
                number += len(picture)
        if not tiles:
            return []
        pixels = self.pixels(inputs, 0, [number for _, _, number in tiles])
        device = input_device(model)
        encoded = self.encode(model, {name: value.to(device) for name, value in pixels.items()})
        return [
            (row, first, tokens)
            for (row, first, _), tokens in zip(tiles, encoded.tokens, strict=True)
        ]

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Pack the features ``[F, D]`` of each row as one tensor ``[1, sum of F, D]``."""
        return pack_tensor(rows)

    def pooled(self, encoded: Sequence[EncodedInput]) -> Tensor | list[Tensor]:
        """Return the tokens of each frame, as one tensor if all have the same number."""
        return stacked_if_equal([frame for video in encoded for frame in video.slices])

    def could_be_frames(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        """Return whether there are more pictures than rows."""
        pictures = inputs.get("pixel_values")
        return pictures is not None and len(pictures) > len(inputs["input_ids"])


class FrameTextStillsAdapter(StillsAdapter):
    """Frames as still images with text around each; an option keeps or drops the text."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of families with text around each frame.

        Attributes:
            frame_text: The frames that keep the text around them (a timestamp, a number, markers):
                ``"keyframes"``, ``"all"`` or ``"none"``.
        """

        frame_text: Literal["all", "keyframes", "none"] = "keyframes"

        def __post_init__(self) -> None:
            require_frame_text(self.frame_text)

    config: Config
    renamed_options = {"wrapping": "frame_text"}
    placeholder_per_slice = True
    marks = (1, 1)
    """The number of marks directly before and directly after the placeholders of a frame."""

    def frame_text(self, slots: Tensor) -> tuple[Tensor, ...]:
        """Return the text and the ``marks`` around each of the slots ``[N, M]``."""
        return text_around(slots, *self.marks)

    def runs(self, places: Tensor, each: int) -> list[Tensor]:
        """Split the positions of a row's placeholders at the text between them."""
        # There are marks between two pictures, so each picture is one run of positions.
        ends = (places.diff() != 1).nonzero().flatten() + 1
        return [run for run in places.tensor_split(ends.cpu()) if len(run)]

    def could_be_frames(self, model: Any, inputs: Mapping[str, Any]) -> bool:
        """Return whether a row has more than one picture."""
        if inputs.get("pixel_values") is None:
            return False
        visual = inputs["input_ids"] == self.video_token_id(model)
        runs = visual[:, 1:] & ~visual[:, :-1]  # there are marks before every picture
        return bool((runs.sum(1) > 1).any())

    def keeps_frame_text(self, is_keyframe: Tensor) -> Tensor:
        """Return the mask ``[N]`` of slices that keep their text, by the option ``frame_text``."""
        return keeps_text(self.config.frame_text, is_keyframe)


def with_one_token(processor: Any, length: str) -> Any:
    """Copy a processor so that it writes one placeholder per picture.

    Args:
        length: The name of the attribute that holds the number of placeholders.
    """
    short = copy.copy(processor)
    setattr(short, length, 1)
    return short
