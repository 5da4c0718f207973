"""The index of a video file: the time of each frame, and the packets to decode for it.

The index pass only demuxes: 0.4-0.9 s for half an hour of video. A frame's *position* is its
number in order of presentation, a packet's *ordinal* its number in order of decoding. A later pass
demuxes the same packets in the same order, so ordinals identify packets. Timestamps do not: those
of AVI are guesses, and raw streams have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtc.video.container import open_video
from vtc.video.errors import VideoError
from vtc.video.files import FileIdentity
from vtc.video.oddities import more_pictures, oddities, picture_turn, square_pixel_size
from vtc.video.reader import VideoInfo
from vtc.video.scan import Presentation, presentation, scan
from vtc.video.timestamps import gap_warnings


@dataclass(frozen=True)
class Index:
    """The frames of a file and their packets.

    Attributes:
        times: ``[N]`` seconds of the shown frames, strictly ascending from 0.
        presentation: The packet of each frame.
        is_key: ``[P]`` bool, whether decoding can begin at this packet.
        stored_size: (width, height) of the first frame as it is stored.
        size: (width, height) of a frame with square pixels before rotation; frames of another size
            are resized to it.
        is_mirrored: Whether frames are mirrored before they are rotated.
        warnings: One sentence for each loss or oddity.
    """

    file: FileIdentity
    times: NDArray[np.float64]
    presentation: Presentation
    is_key: NDArray[np.bool_]
    stored_size: tuple[int, int]
    size: tuple[int, int]
    is_mirrored: bool
    info: VideoInfo
    warnings: list[str]

    def plan(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Find the packets to decode: for each frame, all from its key frame on.

        Args:
            positions: ``[n]`` int64, the frames to read.

        Returns:
            ``[P]`` bool, whether a packet is needed, and ``[P]`` int64, the position of the
            packet's frame if that is to be read, else -1.
        """
        targets = self.presentation.ordinals[positions]
        position_of = np.full(len(self.is_key), -1, dtype=np.int64)
        position_of[targets] = positions
        runs = np.zeros(len(self.is_key) + 1, dtype=np.int64)
        np.add.at(runs, self._starts(targets), 1)
        np.add.at(runs, targets + 1, -1)
        return np.cumsum(runs[:-1]) > 0, position_of

    def _starts(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the packet ``[n]`` at which decoding must begin for each of ``targets``."""
        ordinals = np.arange(len(self.is_key))
        key = np.maximum.accumulate(np.where(self.is_key, ordinals, 0))
        starts = key[targets]
        # A frame shown before its key frame (open GOP) also needs the group before.
        order = self.presentation.order
        leading = order[targets] < order[starts]
        starts[leading] = key[np.maximum(starts[leading] - 1, 0)]
        return starts


def read_index(path: Path) -> Index:
    """Index a file.

    Raises:
        VideoError: It cannot be read, holds no video, or none of its frames can be decoded.
    """
    warnings: list[str] = []
    file = FileIdentity.of(path)
    with open_video(file) as (container, stream):
        packets = scan(container, stream, warnings)
        if packets.first is None:
            animated = "webp" in container.format.name
            hint = "; FFmpeg reads no animated WebP: save it as GIF or MP4" if animated else ""
            raise VideoError(f"{path.name}: no frame of its video stream can be decoded{hint}")
        shown = presentation(file, container.format.name, packets, warnings)
        times = _seconds(shown, stream, warnings)
        duration = float(times[-1] + _frame_interval(times, stream))
        warnings += _losses(container, stream, len(packets.pts), duration)
        file.require_same()
        warnings += gap_warnings(times)
        first = packets.first
        warnings += oddities(container, stream, first)
        warnings += more_pictures(path, container.format.name)
        turn = picture_turn(path, container.format.name) or (_rotation(first, warnings), False)
        rotation, is_mirrored = turn
        size, has_square_pixels = square_pixel_size(first, stream, warnings)
        width, height = size if rotation % 180 == 0 else size[::-1]
        order, is_key = shown.order, packets.is_key
        key_times = times[np.isin(shown.ordinals, np.flatnonzero(is_key))]
        info = VideoInfo(
            width=width,
            height=height,
            duration=duration,
            frame_count=len(times),
            native_fps=len(times) / duration,
            codec=stream.codec_context.name,
            container=container.format.name,
            rotation=rotation,
            key_interval=float(np.diff(np.concatenate([[0.0], key_times, [duration]])).max()),
            open_gop=bool(np.any(np.maximum.accumulate(np.where(is_key, order, -1)) > order)),
            trimmed=bool(packets.is_hidden.any()),
            variable_rate=_has_variable_rate(times),
            square_pixels=has_square_pixels,
        )
    warnings = [f"{path.name}: {warning}" for warning in warnings]
    stored = first.width, first.height
    return Index(file, times, shown, is_key, stored, size, is_mirrored, info, warnings)


def _seconds(shown: Presentation, stream: VideoStream, warnings: list[str]) -> NDArray[np.float64]:
    if shown.ticks is None:
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        warnings.append(f"holds no timestamps; its frames are taken to come at {rate:g} FPS")
        return np.arange(len(shown.ordinals)) / rate
    tick = stream.time_base or Fraction(1)
    # Multiply before dividing, so that whole seconds are exact.
    seconds: NDArray[np.float64] = (
        (shown.ticks - shown.ticks[0]) * tick.numerator / tick.denominator
    )
    return seconds


def _rotation(frame: Any, warnings: list[str]) -> int:
    """Return the degrees by which frames are rotated counter-clockwise for display."""
    if frame.rotation % 90:
        warnings.append(f"its rotation of {frame.rotation} degrees is ignored")
        return 0
    return int(frame.rotation % 360)


def _frame_interval(times: NDArray[np.float64], stream: VideoStream) -> float:
    """Return the display time of the last frame in seconds.

    The durations of packets are wrong in variable-rate MP4s.
    """
    if len(times) > 1:
        return float(np.median(np.diff(times)))
    return 1 / float(stream.average_rate or 25)


def _has_variable_rate(times: NDArray[np.float64]) -> bool:
    steps = np.diff(times)
    return len(steps) > 0 and bool(steps.max() > 1.5 * np.median(steps))


def _losses(
    container: InputContainer, stream: VideoStream, count: int, duration: float
) -> list[str]:
    """Return a warning if the file holds less than it declares."""
    declared = (container.duration or 0) / 1e6
    if "matroska" in container.format.name:  # it counts from 0, not from the first frame
        declared -= max(0, container.start_time or 0) / 1e6
    if stream.frames > count:
        missing = stream.frames - count
        return [
            f"{missing} of {stream.frames} declared frames are missing "
            f"(the file is cut off after {duration:.1f} s)"
        ]
    if stream.frames == 0 and declared > duration + max(1.0, 0.05 * declared):
        return [f"its video ends at {duration:.1f} s of the {declared:.1f} s that it declares"]
    return []
