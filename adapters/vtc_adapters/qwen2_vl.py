"""Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc.video_adapter import CompressedVideo, Layout, SliceFeatures, VideoAdapter, VideoSpan


class Qwen2VLAdapter(VideoAdapter):
    """Qwen2-VL and Qwen2.5-VL: two frames a slice, positions in time, height and width."""

    video_inputs = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    frames_per_slice = 2

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        return self._grid(model, pixels["video_grid_thw"][0])

    def spans(self, model: Any, inputs: Mapping[str, Any], start: int = 0) -> list[VideoSpan]:
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
                none = run[:0]
                spans.append(VideoSpan(row, run.view(slices, slots), none, grid, 2))
        if len(spans) != len(grids):
            raise ValueError(
                f"video_grid_thw holds {len(grids)} videos, but input_ids has placeholders for "
                f"{len(spans)}; make both with one call of the processor"
            )
        return spans

    def pixels(
        self, inputs: Mapping[str, Any], video: int, slices: Sequence[int]
    ) -> dict[str, Tensor]:
        grids = inputs["video_grid_thw"]
        before = int(grids[:video].prod(-1).sum())
        frames, height, width = grids[video].tolist()
        size = frames * height * width
        patches = inputs["pixel_values_videos"][before : before + size]
        chosen = patches.view(frames, height * width, -1)[list(slices)].flatten(0, 1)
        return {
            "pixel_values_videos": chosen,
            "video_grid_thw": torch.tensor([[len(slices), height, width]], device=chosen.device),
        }

    def preprocess(self, processor: Any, frames: Tensor) -> dict[str, Tensor]:
        settings = processor.video_processor
        # A cap on all frames together would make their size depend on the chunk.
        uncapped = {"cap_pixels_per_frame": False} if _knows_cap(settings) else {}
        batch = settings(
            [frames.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt", **uncapped
        )
        return {name: batch[name] for name in self.video_inputs[:2]}

    def frames(self, processor: Any, pixels: Mapping[str, Tensor]) -> Tensor:
        settings = processor.video_processor
        slices, height, width = pixels["video_grid_thw"][0].tolist()
        merge, side = settings.merge_size, settings.patch_size
        patches = pixels["pixel_values_videos"].float()
        packed = patches.view(
            slices, height // merge, width // merge, merge, merge, 3, -1, side, side
        )
        first = packed[..., 0, :, :]  # of the two frames of a slice
        rgb = first.permute(0, 1, 3, 6, 2, 4, 7, 5).reshape(slices, height * side, width * side, 3)
        if settings.do_normalize:
            rgb = rgb * rgb.new_tensor(settings.image_std) + rgb.new_tensor(settings.image_mean)
        if settings.do_rescale:
            rgb = rgb / settings.rescale_factor
        return rgb.round().clamp(0, 255).to(torch.uint8)

    def encode(self, model: Any, pixels: Mapping[str, Tensor]) -> SliceFeatures:
        grid = pixels["video_grid_thw"]
        encoded = model.model.get_video_features(
            pixels["pixel_values_videos"], video_grid_thw=grid, return_dict=True
        ).pooler_output
        features = torch.cat(list(encoded))
        return SliceFeatures(tokens=features.view(int(grid[0, 0]), -1, features.shape[-1]))

    def pack(self, videos: list[Tensor]) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=videos)

    def position_ids(self, model: Any, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
        """The stock positions of the tokens that are left.

        The stock ``get_rope_index`` runs on rows whose videos have one slice: what stands around
        a video does not depend on how many slices it has. A slice's time is added after it, and
        a merged token stands at the centre of its grid.
        """
        around = self._stock_positions(model, inputs, layout)
        mask = layout.mask
        text = (mask.cumsum(-1) - 1).clamp(min=0)
        positions = text.expand(3, -1, -1).clone()
        deltas = torch.zeros(len(mask), 1, dtype=torch.int64, device=mask.device)
        for row, stock in enumerate(around):
            columns = self._row_positions(model, inputs, layout, row, stock)
            place = mask[row].nonzero().flatten()[-columns.shape[1] :]
            positions[:, row, place] = columns.to(mask.device)
            before = 0 if layout.generating else layout.cached  # forward's mask is of new tokens
            deltas[row] = columns[:, -1].max() + 1 - mask[row].sum() - before
        model.model.rope_deltas = deltas
        return torch.cat([text[None], positions]) if layout.generating else positions

    def _stock_positions(
        self, model: Any, inputs: Mapping[str, Any], layout: Layout
    ) -> list[Tensor]:
        """``[3, L_row]`` of each row, its videos cut to one slice, what is cached left out."""
        ids = inputs["input_ids"]
        rows, grids = [], []
        merge = model.config.vision_config.spatial_merge_size
        for row, kept in enumerate(layout.rows):
            pieces, begin = [], max(layout.start, int(kept[0]))
            for video in layout.videos:
                if video.span.row == row:
                    height, width = video.span.grid or (1, 1)
                    grids.append([1, height * merge, width * merge])
                    pieces += [torch.arange(begin, video.span.first), video.span.slots[0].cpu()]
                    begin = video.span.last + 1
            pieces.append(torch.arange(begin, int(kept[-1]) + 1))
            rows.append(ids[row, torch.cat(pieces).to(ids.device)])
        stock, known = [], 0
        images = inputs.get("image_grid_thw")
        at = 0
        for row, short in enumerate(rows):
            kinds = (short == model.config.image_token_id).int()
            kinds = kinds + 2 * (short == self.video_token_id(model)).int()
            starts = kinds.diff(prepend=kinds.new_zeros(1)) != 0
            count = int((starts & (kinds == 2)).sum())
            pictures = int((starts & (kinds == 1)).sum())
            video_grids = torch.tensor(grids[known : known + count], dtype=torch.int64)
            found, _ = model.model.get_rope_index(
                short[None],
                mm_token_type_ids=kinds[None],
                image_grid_thw=None if images is None else images[at : at + pictures],
                video_grid_thw=video_grids.view(-1, 3),
            )
            stock.append(found[:, 0] + self._cached_position(model, layout, row))
            known, at = known + count, at + pictures
        return stock

    def _cached_position(self, model: Any, layout: Layout, row: int) -> int:
        """The position after those in the cache."""
        if layout.cached == 0:
            return 0
        deltas = model.model.rope_deltas
        return layout.cached + (0 if deltas is None else int(deltas[row % len(deltas)]))

    def _row_positions(
        self, model: Any, inputs: Mapping[str, Any], layout: Layout, row: int, stock: Tensor
    ) -> Tensor:
        """``[3, L]`` of the tokens that are left of one row, from the positions around them."""
        columns, at = [], 0
        begin = max(layout.start, int(layout.rows[row][0]))
        for number, video in enumerate(layout.videos):
            if video.span.row != row:
                continue
            text = video.span.first - begin
            slots = video.span.slots.shape[1]
            columns.append(stock[:, at : at + text])
            columns.append(
                self._video_positions(
                    stock[:, at + text : at + text + slots],
                    video,
                    self._interval(model, inputs, number, video),
                )
            )
            at += text + slots
            begin = video.span.last + 1
        columns.append(stock[:, at:])
        return torch.cat(columns, dim=1)

    def _video_positions(self, cells: Tensor, video: CompressedVideo, interval: float) -> Tensor:
        height, width = video.span.grid or (1, 1)
        centre = cells[:, height // 2 * width + width // 2]
        places = torch.cat([cells, centre[:, None]], dim=1)  # -1, a merged token, is the centre
        columns = places[:, video.cells.to(places.device)]
        columns[0] += (video.slices * interval).long().to(columns.device)
        return columns

    def _interval(
        self, model: Any, inputs: Mapping[str, Any], number: int, video: CompressedVideo
    ) -> float:
        """How far two slices are apart in positions: 1 in Qwen2-VL, by seconds in Qwen2.5-VL."""
        rate = getattr(model.config.vision_config, "tokens_per_second", None)
        if rate is None:
            return 1.0
        given = inputs.get("second_per_grid_ts")
        if given is not None:
            return float(rate * given[number])
        # As stock without times: one second a slice. Real ones are rounded over their jitter.
        return float(rate * (round(video.seconds_per_slice or 1.0, 2)))

    def _grid(self, model: Any, thw: Tensor) -> tuple[int, int]:
        merge = model.config.vision_config.spatial_merge_size
        return int(thw[1]) // merge, int(thw[2]) // merge


def _knows_cap(video_processor: Any) -> bool:
    return hasattr(video_processor, "cap_pixels_per_frame")
