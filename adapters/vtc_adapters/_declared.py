"""``vtc_frames``: what the caller says of pictures that are frames of videos."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor

_ALLOWED = (
    "allowed is the number of frames of the one video of every row, or a list with an entry for "
    "each row: such a number, or a list of (first picture, frames) of each video"
)


def declared_videos(given: Any, pictures: list[int], tiling: str) -> list[list[tuple[int, int]]]:
    """For each row its videos, as (the first picture, the number of frames).

    Args:
        given: ``vtc_frames`` of a call.
        pictures: How many pictures each row has.
        tiling: The switch by which the processor cuts pictures into tiles, for errors.

    Raises:
        ValueError: It does not fit the pictures, or is something else.
    """
    said = given.tolist() if isinstance(given, Tensor) else given
    rows = [said] * len(pictures) if _is_count(said) else said
    if not isinstance(rows, (list, tuple)):
        raise ValueError(f"vtc_frames={given!r}: {_ALLOWED}")
    if len(rows) != len(pictures):
        raise ValueError(
            f"vtc_frames={given!r} has {len(rows)} entries for {len(pictures)} rows; {_ALLOWED}"
        )
    entries = enumerate(zip(rows, pictures, strict=True))
    return [_videos(given, row, entry, count, tiling) for row, (entry, count) in entries]


def _videos(given: Any, row: int, entry: Any, pictures: int, tiling: str) -> list[tuple[int, int]]:
    if _is_count(entry):
        if entry not in (0, pictures):
            tiles = (
                f" (an image cut into tiles may count as several: {tiling}=False)" if tiling else ""
            )
            raise ValueError(
                f"vtc_frames says {entry} frames for row {row}, which has {pictures} "
                f"pictures{tiles}; where still images stand beside a video, give (first picture, "
                "frames) of each video, as in vtc_frames=[[(1, 8)]]"
            )
        return [(0, entry)] if entry else []
    if not isinstance(entry, (list, tuple)) or not all(_is_video(video) for video in entry):
        raise ValueError(f"vtc_frames={given!r}, row {row}: {_ALLOWED}")
    end = 0
    for first, frames in entry:
        if not (end <= first < first + frames <= pictures):
            raise ValueError(
                f"vtc_frames says {frames} frames from picture {first} in row {row}; allowed "
                f"are pictures {end} to {pictures - 1}, in order"
            )
        end = first + frames
    return [(first, frames) for first, frames in entry]


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _is_video(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_count, value))
