"""Parse ``vtc_frames``, the argument that declares pictures to be frames of videos."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor

_EXPECTED = (
    "a number of frames (one video in every row), or a list with an entry for each row: a number "
    "of frames, or a list of (first picture, frames) of each video"
)


def declared_videos(
    vtc_frames: Any, pictures: list[int], tiling: str
) -> list[list[tuple[int, int]]]:
    """Return the videos of each row, as (first picture, number of frames).

    Args:
        vtc_frames: The call's argument.
        pictures: The number of pictures of each row.
        tiling: The processor's option that cuts pictures into tiles, for error messages.

    Raises:
        ValueError: ``vtc_frames`` does not fit the pictures, or has another form.
    """
    value = vtc_frames.tolist() if isinstance(vtc_frames, Tensor) else vtc_frames
    rows = [value] * len(pictures) if _is_count(value) else value
    if not isinstance(rows, (list, tuple)):
        raise ValueError(f"expected vtc_frames to be {_EXPECTED}; got {vtc_frames!r}")
    if len(rows) != len(pictures):
        raise ValueError(
            f"vtc_frames={vtc_frames!r} has {len(rows)} entries for {len(pictures)} rows; "
            f"give {_EXPECTED}"
        )
    entries = enumerate(zip(rows, pictures, strict=True))
    return [_videos(vtc_frames, row, entry, count, tiling) for row, (entry, count) in entries]


def _videos(
    vtc_frames: Any, row: int, entry: Any, pictures: int, tiling: str
) -> list[tuple[int, int]]:
    if _is_count(entry):
        if entry not in (0, pictures):
            tiles = (
                f" (an image cut into tiles may count as several: {tiling}=False)" if tiling else ""
            )
            raise ValueError(
                f"vtc_frames says {entry} frames for row {row}, which has {pictures} "
                f"pictures{tiles}; if still images stand beside a video, give (first picture, "
                "frames) of each video, as in vtc_frames=[[(1, 8)]]"
            )
        return [(0, entry)] if entry else []
    if not isinstance(entry, (list, tuple)) or not all(_is_video(video) for video in entry):
        raise ValueError(f"expected vtc_frames to be {_EXPECTED}; got {entry!r} for row {row}")
    end = 0
    for first, frames in entry:
        if not (end <= first < first + frames <= pictures):
            raise ValueError(
                f"vtc_frames says {frames} frames from picture {first} in row {row}; expected "
                f"pictures {end} to {pictures - 1}, in order"
            )
        end = first + frames
    return [(first, frames) for first, frames in entry]


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _is_video(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_count, value))
