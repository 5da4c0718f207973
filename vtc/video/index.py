"""The index of a video file: every frame's time and what must be decoded to see it.

The index pass only demuxes: 0.4-0.9 s for half an hour of video. Frames are known by their
*position* in order of presentation, packets by their *ordinal* in order of decoding. A later pass
demuxes the same packets in the same order, so ordinals identify them for good, which timestamps
do not: AVI has none worth the name, raw streams have none at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtc.video.container import open_video
from vtc.video.errors import VideoError
from vtc.video.reader import VideoInfo
from vtc.video.scan import Presentation, presentation, scan


@dataclass(frozen=True)
class Index:
    """Where the frames of a file are.

    Attributes:
        times: ``[N]`` seconds of the shown frames, strictly ascending from 0.
        presentation: Which packet holds which frame.
        is_key: ``[P]`` bool, decoding can begin at this packet.
        stored_size: (width, height) before rotation; frames of another size are resized to it.
        warnings: One sentence for each thing that is lost or odd.
    """

    path: Path
    times: NDArray[np.float64]
    presentation: Presentation
    is_key: NDArray[np.bool_]
    stored_size: tuple[int, int]
    info: VideoInfo
    warnings: list[str]

    def plan(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Find the packets to decode: from the key frame before each wanted frame up to it.

        Args:
            positions: ``[n]`` int64, the wanted frames.

        Returns:
            ``[P]`` bool, the packets needed, and ``[P]`` int64, the position of the wanted frame
            that a packet holds, or -1.
        """
        targets = self.presentation.ordinals[positions]
        wanted = np.full(len(self.is_key), -1, dtype=np.int64)
        wanted[targets] = positions
        runs = np.zeros(len(self.is_key) + 1, dtype=np.int64)
        np.add.at(runs, self._starts(targets), 1)
        np.add.at(runs, targets + 1, -1)
        return np.cumsum(runs[:-1]) > 0, wanted

    def _starts(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where decoding must begin to see ``targets``."""
        ordinals = np.arange(len(self.is_key))
        key = np.maximum.accumulate(np.where(self.is_key, ordinals, 0))
        starts = key[targets]
        # A frame shown before its key frame (open GOP) also needs frames from before that.
        order = self.presentation.order
        leading = order[targets] < order[starts]
        starts[leading] = key[np.maximum(starts[leading] - 1, 0)]
        return starts


def read_index(path: Path) -> Index:
    """Index a file.

    Raises:
        VideoError: It cannot be read, holds no video, or not one frame of it can be decoded.
    """
    warnings: list[str] = []
    with open_video(path) as (container, stream):
        packets = scan(container, stream, warnings)
        if packets.first is None:
            raise VideoError(f"{path.name}: no frame of its video stream can be decoded")
        shown = presentation(path, container.format.name, packets, warnings)
        times = _seconds(shown, stream, warnings)
        duration = float(times[-1] + _frame_interval(times, stream))
        warnings += _losses(container, stream, len(packets.pts), duration)
        first = packets.first
        if first.rotation % 90:
            warnings.append(f"its rotation of {first.rotation} degrees is ignored")
        rotation = first.rotation % 360 if first.rotation % 90 == 0 else 0
        size = (first.width, first.height)
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
        )
    warnings = [f"{path.name}: {warning}" for warning in warnings]
    return Index(path, times, shown, is_key, size, info, warnings)


def _seconds(shown: Presentation, stream: VideoStream, warnings: list[str]) -> NDArray[np.float64]:
    if shown.ticks is None:
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        warnings.append(f"holds no timestamps; its frames are taken to come at {rate:g} FPS")
        return np.arange(len(shown.ordinals)) / rate
    tick = stream.time_base or Fraction(1)
    # Multiplied before divided, so that whole seconds come out exact.
    seconds: NDArray[np.float64] = (
        (shown.ticks - shown.ticks[0]) * tick.numerator / tick.denominator
    )
    return seconds


def _frame_interval(times: NDArray[np.float64], stream: VideoStream) -> float:
    """How long the last frame is shown; packets of variable-rate MP4s give it wrongly."""
    if len(times) > 1:
        return float(np.median(np.diff(times)))
    return 1 / float(stream.average_rate or 25)


def _has_variable_rate(times: NDArray[np.float64]) -> bool:
    steps = np.diff(times)
    return len(steps) > 0 and bool(steps.max() > 1.5 * np.median(steps))


def _losses(
    container: InputContainer, stream: VideoStream, found: int, duration: float
) -> list[str]:
    """Compare what the file declares with what it holds."""
    declared = (container.duration or 0) / 1e6
    if stream.frames > found:
        missing = stream.frames - found
        return [
            f"{missing} of {stream.frames} declared frames are missing "
            f"(the file is cut off after {duration:.1f} s)"
        ]
    if stream.frames == 0 and declared > duration + max(1.0, 0.05 * declared):
        return [f"its video ends at {duration:.1f} s of the {declared:.1f} s that it declares"]
    return []
