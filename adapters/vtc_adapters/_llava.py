"""The base of the LLaVA families: each frame is a slice, and all frames form one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.interfaces.video_span import EncodedInput, VideoSpan
from vtc_adapters._pixels import pack_tensor, stacked_if_equal, to_rgb
from vtc_adapters._tower import SeparateTower


class LlavaAdapter(SeparateTower):
    """Families whose processor gives ``pixel_values_videos`` as ``[B, N, 3, H, W]``."""

    projectors = ("model.multi_modal_projector",)
    vision_towers: ClassVar[tuple[str, ...]] = ("model.vision_tower",)

    def spans(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[VideoSpan]:
        """Find videos of N x M placeholders and the tail; see `VideoAdapter.spans`.

        Raises:
            ValueError: The placeholders do not fit ``pixel_values_videos``.
        """
        grid, tail = self.slice_grid(model, inputs), self.tail_length()
        slots = grid[0] * grid[1]
        videos, frames = inputs["pixel_values_videos"].shape[:2]
        length = frames * slots + tail
        spans = []
        for row, ids in enumerate(inputs["input_ids"]):
            places = (ids == self.video_token_id(model)).nonzero().flatten()
            places = places[places >= start]
            if len(places) % length:
                after = f" + {tail}" if tail else ""
                raise ValueError(
                    f"row {row} of input_ids has {len(places)} video placeholders, but videos of "
                    f"{frames} frames have {frames} x {slots}{after} = {length} each; "
                    "make input_ids and pixel_values_videos with one call of the processor"
                )
            for run in places.split(length):
                if len(run):
                    body, end = run[: frames * slots], run[frames * slots :]
                    at = rearrange(body, "(n m) -> n m", n=frames)
                    spans.append(VideoSpan(row, at, end, grid))
        if len(spans) != videos:
            raise ValueError(
                f"pixel_values_videos holds {videos} videos, but input_ids has placeholders for "
                f"{len(spans)}; make both with one call of the processor"
            )
        return spans

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        """Select ``pixel_values_videos`` ``[n, 3, H, W]`` from ``[B, N, 3, H, W]``."""
        return {"pixel_values_videos": inputs["pixel_values_videos"][video, list(slices)]}

    def preprocess(self, processor: Any, frames: Tensor, total: int) -> dict[str, Tensor]:
        """Make ``pixel_values_videos`` ``[n, 3, H, W]`` from frames ``[n, H, W, 3]`` uint8."""
        video = rearrange(frames, "n h w c -> n c h w")
        batch = processor.video_processor([video], do_sample_frames=False, return_tensors="pt")
        return {"pixel_values_videos": batch["pixel_values_videos"][0]}

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        """Return ``[n, H, W, 3]`` uint8 RGB of ``pixel_values_videos`` ``[n, 3, H, W]``."""
        return to_rgb(processor.video_processor, pixels["pixel_values_videos"])

    def pack(self, model: Any, rows: list[Tensor]) -> BaseModelOutputWithPooling:
        """Pack the features ``[F, D]`` of each row as one tensor ``[1, sum of F, D]``."""
        return pack_tensor(rows)

    def pooled(self, encoded: Sequence[EncodedInput]) -> Tensor | list[Tensor]:
        """Return the tokens of each video, as one tensor if all have the same number."""
        return stacked_if_equal([video.features for video in encoded])
