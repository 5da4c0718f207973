"""The base of the Qwen-VL families: two frames per slice, packed patches, 3-axis positions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from transformers.image_utils import SizeDict
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.video_processing_utils import BaseVideoProcessor

from vtc.interfaces.video_adapter import VideoAdapter
from vtc.interfaces.video_span import (
    CompressedVideo,
    EncodedInput,
    Layout,
    SliceFeatures,
    VideoSpan,
)
from vtc_adapters._frame_text import without_missing_marks
from vtc_adapters._mrope import Slices, mrope_after, mrope_offsets, mrope_positions
from vtc_adapters._saliency import attention_module
from vtc_adapters._tower import projectors_of, recorded


class QwenAdapter(VideoAdapter):
    """Families whose processor packs the patches of all videos in ``pixel_values_videos``."""

    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos", "video_grid_thw")
    frames_per_slice = 2
    position_state = "model.rope_deltas"
    projectors: ClassVar[tuple[str, ...]] = ("model.visual.merger",)
    vision_towers = ("model.visual",)  # except for the projectors in it

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the grid of ``video_grid_thw``, in blocks of ``spatial_merge_size`` patches."""
        return self._grid(model, pixels["video_grid_thw"][0])

    def encoder_outputs(
        self, model: Any, encoded: Sequence[EncodedInput]
    ) -> BaseModelOutputWithPooling:
        """Return the last states as rows ``[patches, Dv]``; see `VideoAdapter.encoder_outputs`."""
        outputs = super().encoder_outputs(model, encoded)
        if outputs.last_hidden_state is not None:
            outputs["last_hidden_state"] = outputs.last_hidden_state.flatten(0, 1)
        return outputs

    def spans(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[VideoSpan]:
        """Find the videos that ``video_grid_thw`` ``[V, 3]`` describes; see `VideoAdapter.spans`.

        Raises:
            ValueError: The placeholders do not fit ``video_grid_thw``.
        """
        grids = inputs["video_grid_thw"]
        spans: list[VideoSpan] = []
        for row, ids in enumerate(inputs["input_ids"]):
            places = (ids == self.video_token_id(model)).nonzero().flatten()
            places = places[places >= start]
            while len(places):
                if len(spans) == len(grids):
                    raise ValueError(
                        f"input_ids has more video placeholders than video_grid_thw has videos "
                        f"({len(grids)}); make both with one call of the processor"
                    )
                grid = self._grid(model, grids[len(spans)])
                slices, slots = int(grids[len(spans)][0]), grid[0] * grid[1]
                if len(places) < slices * slots:
                    raise ValueError(
                        f"row {row} of input_ids has {len(places)} video placeholders left for a "
                        f"video of {slices} x {slots}; make input_ids and pixel_values_videos "
                        "with one call of the processor"
                    )
                run, places = places[: slices * slots], places[slices * slots :]
                at = rearrange(run, "(n m) -> n m", n=slices)
                text = self.frame_text(at)
                if text is not None:
                    text = without_missing_marks(ids, at, text, self.video_token_id(model))
                spans.append(VideoSpan(row, at, run[:0], grid, 2, text))
        if len(spans) != len(grids):
            raise ValueError(
                f"video_grid_thw holds {len(grids)} videos, but input_ids has placeholders for "
                f"{len(spans)}; make both with one call of the processor"
            )
        return spans

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        """Select ``pixel_values_videos`` ``[n * patches, d]``; ``video_grid_thw`` is ``[1, 3]``."""
        grids = inputs["video_grid_thw"]
        before = int(grids[:video].prod(-1).sum())
        frames, height, width = grids[video].tolist()
        size = frames * height * width
        patches = inputs["pixel_values_videos"][before : before + size]
        patches = rearrange(patches, "(n p) d -> n p d", n=frames)[list(slices)].flatten(0, 1)
        return {
            "pixel_values_videos": patches,
            "video_grid_thw": torch.tensor([[len(slices), height, width]], device=patches.device),
        }

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        """Return ``[n, H, W, 3]`` uint8 RGB: the first of the two frames of each slice."""
        settings = processor.video_processor
        slices, height, width = pixels["video_grid_thw"][0].tolist()
        merge, side = settings.merge_size, settings.patch_size
        # Patches come in blocks of merge x merge; t is the frame within a slice.
        rgb = rearrange(
            pixels["pixel_values_videos"].float(),
            "(n h w mh mw) (c t ph pw) -> t n (h mh ph) (w mw pw) c",
            n=slices,
            h=height // merge,
            mh=merge,
            mw=merge,
            c=3,
            ph=side,
            pw=side,
        )[0]
        if settings.do_normalize:
            rgb = rgb * rgb.new_tensor(settings.image_std) + rgb.new_tensor(settings.image_mean)
        if settings.do_rescale:
            rgb = rgb / settings.rescale_factor
        return rgb.round().clamp(0, 255).to(torch.uint8)

    def tower(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return ``[n, M, p, Dv]`` of the p patches of each token; see `VideoAdapter.tower`."""
        grid = pixels["video_grid_thw"]
        height, width = self._grid(model, grid[0])
        merge = model.config.vision_config.spatial_merge_size
        states, features = recorded(self, model, pixels, rows_per_token=merge**2)
        # Qwen2.5-VL projects the tokens window by window and sorts them afterwards.
        order = features.tokens[0, :, 0].long() % (height * width)
        return tuple(
            rearrange(state, "(n m p) d -> n m p d", n=len(features.tokens), m=height * width)[
                :, order
            ]
            for state in states
        )

    def saliency_module(self, model: Any) -> str:
        """Return the attention of the last layer of the tower."""
        return attention_module(model, self.vision_towers[0])

    def token_saliency(self, model: Any, pixels: Mapping[str, Tensor], received: Tensor) -> Tensor:
        """Return the mean over the patches of each token; see `TowerSaliency.token_saliency`."""
        height, width = self._grid(model, pixels["video_grid_thw"][0])
        merge = model.config.vision_config.spatial_merge_size
        means = rearrange(received, "1 (n m p) -> n m p", m=height * width, p=merge**2).mean(-1)
        order = self._order_of_tokens(model, height, width).to(means.device)
        return means[:, order.argsort()]

    def _order_of_tokens(self, model: Any, height: int, width: int) -> Tensor:
        """Return the order in which the tower holds the tokens of a slice: by windows or rows."""
        vision = model.config.vision_config
        if not hasattr(vision, "window_size"):
            return torch.arange(height * width)
        side = vision.window_size // vision.spatial_merge_size // vision.patch_size
        row, column = torch.arange(height) // side, torch.arange(width) // side
        windows = row[:, None] * (int(column[-1]) + 1) + column
        order: Tensor = windows.flatten().argsort(stable=True)
        return order

    def project(self, model: Any, states: Sequence[Tensor]) -> SliceFeatures:
        """Project ``[n, M, p, Dv]``, for deepstack's layers too; see `VideoAdapter.project`."""
        tokens, *extra = (
            rearrange(projector(state.flatten(0, 2)), "(n m) d -> n m d", n=len(state))
            for projector, state in zip(projectors_of(self, model), states, strict=True)
        )
        return SliceFeatures(tokens, extra=tuple(extra))

    def position_ids(self, model: Any, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
        """Return M-RoPE positions: ``[4, B, L']`` for ``generate``, else ``[3, B, L']``."""

        def slices_of(number: int, video: CompressedVideo, cells: Tensor) -> Slices:
            return self._slices(model, inputs, number, video, cells)

        return mrope_positions(model, inputs, layout, self.video_token_id(model), slices_of)

    def position_offsets(self, positions: Tensor, layout: Layout) -> Tensor:
        return mrope_offsets(positions, layout)

    def positions_after(self, inputs: Mapping[str, Any], cached: int, offsets: Tensor) -> Tensor:
        return mrope_after(inputs, cached, offsets)

    @abstractmethod
    def _slices(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        number: int,
        video: CompressedVideo,
        cells: Tensor,
    ) -> Slices:
        """Return the slices' positions, given those of the first slice's cells ``[3, M]``."""

    def _grid(self, model: Any, thw: Tensor) -> tuple[int, int]:
        merge = model.config.vision_config.spatial_merge_size
        return int(thw[1]) // merge, int(thw[2]) // merge


def size_of_frames(
    settings: Any, frames: Tensor, total: int, *, longest_edge: int, cap: bool
) -> tuple[int, int]:
    """Return the height and width to which the stock processor resizes the frames of a video.

    Args:
        settings: The video processor.
        frames: ``[n, H, W, 3]`` uint8, some frames of the video.
        total: The number of frames of the whole video.
        longest_edge: The maximum number of pixels of a frame (Qwen2-VL) or of a video (Qwen3-VL).
        cap: Whether to limit the pixels of all frames together as well.
    """
    if not settings.do_resize:
        return int(frames.shape[1]), int(frames.shape[2])
    _, height, width, channels = frames.shape
    video = frames.new_empty(1, max(total, 2), channels, height, width, device="meta")
    resized = settings.resize(
        videos=video,
        size=SizeDict(shortest_edge=settings.size["shortest_edge"], longest_edge=longest_edge),
        resample=settings.resample,
        factor=settings.patch_size * settings.merge_size,
        temporal_factor=settings.temporal_patch_size,
        cap_pixels_per_frame=cap,
    )
    return int(resized.shape[-2]), int(resized.shape[-1])


def per_slice(rows: Tensor, grid: Tensor) -> Tensor:
    """Return the rows ``[n * m, d]`` of a video with the grid ``[1, 3]`` as ``[n, m, d]``."""
    return rearrange(rows, "(n m) d -> n m d", n=int(grid[0, 0]))


def packed_patches(settings: Any, frames: Tensor, size: tuple[int, int]) -> Any:
    """Run the video processor on frames ``[n, H, W, 3]``, resized to ``size`` (height, width)."""
    video = rearrange(frames, "n h w c -> 1 n c h w")
    if video.shape[-2:] != size:
        target = SizeDict(height=size[0], width=size[1])
        video = BaseVideoProcessor.resize(settings, video, target, resample=settings.resample)
    # Newer processors warn if this is not set; the frames have their size already.
    options = {"cap_pixels_per_frame": False} if hasattr(settings, "cap_pixels_per_frame") else {}
    return settings(
        [video[0]], do_sample_frames=False, do_resize=False, return_tensors="pt", **options
    )
