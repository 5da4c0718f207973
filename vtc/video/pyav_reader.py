"""The default reader: PyAV, exact, decoding only what the wanted frames need."""

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
"""Decoders that may be told before each packet to skip it when no other frame needs it. Others
read the setting once (libdav1d) or were not tried; with them every needed packet is decoded."""

_UNSPECIFIED, _FULL_RANGE, _LIMITED_RANGE, _BT601 = 2, 2, 1, 5  # FFmpeg's numbers


class PyAVReader:
    """Reads a file in passes: each opens it anew and decodes what its frames need, in order."""

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
                self._notice_size(position, frame)
                yield Picture(position, self._pixels(to_rgb, frame), not frame.is_corrupt)

    def decodable(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        with closing(self._frames(positions)) as frames:
            return np.isin(positions, [position for position, _ in frames])

    def _frames(
        self, positions: NDArray[np.int64]
    ) -> Generator[tuple[int, VideoFrame], None, None]:
        needed, wanted = self._index.plan(positions)
        end = int(np.flatnonzero(needed)[-1]) + 1 if needed.any() else 0
        with open_video(self._index.path) as (container, stream):
            stream.thread_type = "AUTO"
            decoder = stream.codec_context
            skips = self.info.codec in _SKIPS_PER_PACKET
            holding = False
            for ordinal, packet in enumerate(islice(packets(container, stream), end)):
                if needed[ordinal]:
                    if skips:
                        decoder.skip_frame = "NONREF" if wanted[ordinal] < 0 else "DEFAULT"
                    packet.pts = ordinal  # comes out as the frame's pts and says which it is
                    frames = decode(decoder, packet)
                    holding = True
                elif holding:
                    # Like a seek: what the decoder holds comes out, and decoding starts afresh
                    # at the next key frame.
                    frames = decode(decoder, None)
                    decoder.flush_buffers()
                    holding = False
                else:
                    continue
                yield from _wanted(frames, wanted)
            yield from _wanted(decode(decoder, None), wanted)

    def _pixels(self, to_rgb: VideoReformatter, frame: VideoFrame) -> NDArray[np.uint8]:
        width, height = self._index.stored_size
        rgb = to_rgb.reformat(
            frame, width, height, "rgb24", interpolation="BICUBIC", **_colours(frame)
        )
        return np.rot90(rgb.to_ndarray(), self.info.rotation // 90)

    def _notice_size(self, position: int, frame: VideoFrame) -> None:
        if (frame.width, frame.height) == self._index.stored_size or self._size_changed:
            return
        self._size_changed = True
        width, height = self._index.stored_size
        self.warnings.append(
            f"{self.name}: the size changes from {width}x{height} to {frame.width}x{frame.height} "
            f"by {self.times[position]:.1f} s; frames are resized to the first size"
        )


def _wanted(
    frames: list[VideoFrame], wanted: NDArray[np.int64]
) -> Iterator[tuple[int, VideoFrame]]:
    for frame in frames:
        if frame.pts is not None and wanted[frame.pts] >= 0:
            yield int(wanted[frame.pts]), frame


def _colours(frame: VideoFrame) -> dict[str, Any]:
    """The matrix and range of a YUV frame, in full.

    PyAV 15 takes BT.709 for BT.601 and full for limited range unless it is told all four; then
    every version gives the same colours. A BT.601 limited-range "destination" is what makes it
    pass the others on; RGB has neither.
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
