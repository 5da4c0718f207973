"""The default reader, with PyAV: exact, and decoding only the packets that frames need."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vtc.video.container import decode, open_video, packets
from vtc.video.index import read_index
from vtc.video.reader import Picture

_SKIPS_PER_PACKET = ("h264", "hevc")
"""Decoders whose ``skip_frame`` can change before each packet. Others read it only once (libdav1d)
or are untested; they decode every needed packet."""

_UNSPECIFIED, _FULL_RANGE, _LIMITED_RANGE, _BT601 = 2, 2, 1, 5  # FFmpeg's numbers


class PyAVReader:
    """Reads a file in passes; each pass opens it again and decodes in order."""

    in_memory = False

    def __init__(self, path: Path) -> None:
        self._index = read_index(path)
        self.name = path.name
        self.info = self._index.info
        self.times = self._index.times
        self.warnings = self._index.warnings
        self._size_changed = False

    def read(self, positions: NDArray[np.int64]) -> Generator[Picture, None, None]:
        to_rgb = VideoReformatter()
        with closing(self._frames(positions)) as frames:
            for position, frame in frames:
                self._index.file.require_same()
                self._notice_size(position, frame)
                yield Picture(position, self._pixels(to_rgb, frame), not frame.is_corrupt)

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        with closing(self._frames(positions)) as frames:
            return np.isin(positions, [position for position, _ in frames])

    def _frames(
        self, positions: NDArray[np.int64]
    ) -> Generator[tuple[int, VideoFrame], None, None]:
        needed, position_of = self._index.plan(positions)
        end = int(np.flatnonzero(needed)[-1]) + 1 if needed.any() else 0
        with open_video(self._index.file) as (container, stream):
            stream.thread_type = "AUTO"
            decoder = stream.codec_context
            skips = self.info.codec in _SKIPS_PER_PACKET
            holding = False
            for ordinal, packet in enumerate(islice(packets(container, stream), end)):
                if needed[ordinal]:
                    if skips:
                        decoder.skip_frame = "NONREF" if position_of[ordinal] < 0 else "DEFAULT"
                    packet.pts = ordinal  # copied to the frame's pts, which identifies the frame
                    frames = decode(decoder, packet)
                    holding = True
                elif holding:
                    # Like a seek: drain the decoder, and restart at the next key frame.
                    frames = decode(decoder, None)
                    decoder.flush_buffers()
                    holding = False
                else:
                    continue
                yield from _targets(frames, position_of)
            yield from _targets(decode(decoder, None), position_of)

    def _pixels(self, to_rgb: VideoReformatter, frame: VideoFrame) -> NDArray[np.uint8]:
        width, height = self._index.size
        rgb = to_rgb.reformat(
            frame, width, height, "rgb24", interpolation="BICUBIC", **_colours(frame)
        )
        pixels = rgb.to_ndarray()
        if self._index.is_mirrored:
            pixels = pixels[:, ::-1]
        return np.rot90(pixels, self.info.rotation // 90)

    def _notice_size(self, position: int, frame: VideoFrame) -> None:
        width, height = self._index.stored_size
        if (frame.width, frame.height) == (width, height) or self._size_changed:
            return
        self._size_changed = True
        self.warnings.append(
            f"{self.name}: the size changes from {width}x{height} to {frame.width}x{frame.height} "
            f"by {self.times[position]:.1f} s; frames are resized to the first size"
        )


def _targets(
    frames: list[VideoFrame], position_of: NDArray[np.int64]
) -> Iterator[tuple[int, VideoFrame]]:
    for frame in frames:
        if frame.pts is not None and position_of[frame.pts] >= 0:
            yield int(position_of[frame.pts]), frame


def _colours(frame: VideoFrame) -> dict[str, Any]:
    """Return the matrix and range of a YUV frame as arguments of ``reformat``.

    PyAV 15 confuses BT.709 with BT.601 and full with limited range unless all four arguments are
    given; then every version gives the same colours. The "destination" must be BT.601 and limited
    for PyAV to pass the source on, though RGB has neither.
    """
    if frame.format.is_rgb:
        return {}
    full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return {
        "src_colorspace": frame.colorspace,
        "dst_colorspace": _BT601,
        "src_color_range": _FULL_RANGE if full else _LIMITED_RANGE,
        "dst_color_range": _LIMITED_RANGE,
    }
