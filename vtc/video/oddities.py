"""Detect properties that change how a video looks: HDR, interlacing, pixel shape, orientation."""

from __future__ import annotations

from pathlib import Path

from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, UnidentifiedImageError

_HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of transfer characteristics
_TURNS = {
    1: (0, False),
    2: (0, True),
    3: (180, False),
    4: (180, True),
    5: (90, True),
    6: (270, False),
    7: (270, True),
    8: (90, False),
}
"""EXIF orientation: degrees counter-clockwise, after mirroring left and right."""
_ORIENTATION = 0x0112
_MAX_PIXEL_RATIO, _SQUARE_ENOUGH = 4.0, 0.02


def oddities(container: InputContainer, stream: VideoStream, first: VideoFrame) -> list[str]:
    """Return a warning for each property that is not handled."""
    warnings = []
    transfer = first.color_trc if hasattr(first, "color_trc") else stream.codec_context.color_trc
    if int(transfer or 0) in _HDR:
        warnings.append(
            f"is HDR ({_HDR[int(transfer)]}); it is read without tone mapping, so its colours look "
            "pale; convert it to SDR with ffmpeg's filters zscale and tonemap"
        )
    if first.interlaced_frame:
        warnings.append(
            "is interlaced, so moving edges look like combs; deinterlace it with ffmpeg -vf bwdif"
        )
    others = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    if len(others) > 1:
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        warnings.append(f"has {len(others)} video streams; stream {stream.index} ({size}) is read")
    return warnings


def square_pixel_size(
    first: VideoFrame, stream: VideoStream, warnings: list[str]
) -> tuple[tuple[int, int], bool]:
    """Return the (width, height) with square pixels, and whether the stored pixels are square."""
    stored = first.width, first.height
    ratio = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    if ratio == 0 or abs(ratio - 1) < _SQUARE_ENOUGH:
        return stored, True
    if not 1 / _MAX_PIXEL_RATIO <= ratio <= _MAX_PIXEL_RATIO:
        warnings.append(f"its sample aspect ratio of {ratio:g} is ignored")
        return stored, True
    if ratio > 1:  # the longer side grows, so that no detail is lost
        return (round(first.width * ratio), first.height), False
    return (first.width, round(first.height / ratio)), False


def picture_turn(path: Path, container: str) -> tuple[int, bool] | None:
    """Return the EXIF orientation of a picture: degrees, and whether to mirror; None for videos.

    It is read with Pillow, as FFmpeg's versions differ.
    """
    if not _is_picture(container):
        return None
    try:
        with Image.open(path) as picture:
            return _TURNS.get(picture.getexif().get(_ORIENTATION, 1), (0, False))
    except (UnidentifiedImageError, OSError, SyntaxError):  # formats that only FFmpeg reads
        return None


def more_pictures(path: Path, container: str) -> list[str]:
    """Return a warning if a file holds several pictures, of which FFmpeg reads only the first."""
    if not _is_picture(container):
        return []
    try:
        with Image.open(path) as picture:
            is_photo = picture.format == "MPO"  # a photo with previews
            count = 1 if is_photo else getattr(picture, "n_frames", 1)
    except (UnidentifiedImageError, OSError, SyntaxError):  # formats that only FFmpeg reads
        return []
    return [f"holds {count} pictures; only the first is read"] if count > 1 else []


def _is_picture(container: str) -> bool:
    return container == "image2" or container.endswith("_pipe")
