"""The index pass: what the packets of a file say, and in which order its frames are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtc.video.container import decode, open_video, packets

_UNKNOWN = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Scan:
    """What the P packets say, in order of decoding.

    Attributes:
        pts: ``[P]`` int64, when the frame is shown, in ticks of the stream.
        dts: ``[P]`` int64, when it is decoded; both are ``_UNKNOWN`` where the file does not say.
        is_key: ``[P]`` bool, decoding can begin here.
        is_hidden: ``[P]`` bool, decoded but cut away by an edit list.
        first: The first frame that the decoder gave, its pts the ordinal of its packet.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    is_hidden: NDArray[np.bool_]
    first: VideoFrame | None


@dataclass(frozen=True)
class Presentation:
    """In which order frames are shown, and when.

    Attributes:
        order: ``[P]`` int64, the place of every packet among all, hidden ones included.
        ordinals: ``[N]`` int64, the packets of the shown frames, in order of presentation.
        ticks: ``[N]`` int64, strictly ascending; None where the file does not say.
    """

    order: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    ticks: NDArray[np.int64] | None


def scan(container: InputContainer, stream: VideoStream, warnings: list[str]) -> Scan:
    """Read all packets; decode only until the first frame comes out."""
    rows: list[tuple[int, ...]] = []
    first: list[VideoFrame] = []
    try:
        for packet in packets(container, stream):
            times = (_UNKNOWN if t is None else t for t in (packet.pts, packet.dts))
            rows.append((*times, packet.is_keyframe, packet.is_discard))
            if not first:
                packet.pts = len(rows) - 1
                first = decode(stream.codec_context, packet)
    except av.FFmpegError as error:
        warnings.append(f"cannot be read beyond frame {len(rows)} ({error.strerror})")
    first = first or decode(stream.codec_context, None)
    pts, dts, is_key, is_hidden = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Scan(pts, dts, is_key > 0, is_hidden > 0, first[0] if first else None)


def presentation(path: Path, container: str, packets: Scan, warnings: list[str]) -> Presentation:
    """Find the order of presentation: from the timestamps, or without them by decoding."""
    # What FFmpeg gives as the pts of an AVI is a guess that starts at any value.
    if container == "avi" or np.any(packets.pts == _UNKNOWN):
        return _by_decoding(path, packets)
    return _by_timestamp(packets, warnings)


def _by_timestamp(packets: Scan, warnings: list[str]) -> Presentation:
    pts = _without_jumps_back(packets, warnings)
    order = _inverse(np.argsort(pts, kind="stable"))
    ordinals = np.flatnonzero(~packets.is_hidden & (order >= _first_shown(packets, order)))
    ticks, at = np.unique(pts[ordinals], return_index=True)
    return Presentation(order, ordinals[at], ticks)


def _without_jumps_back(packets: Scan, warnings: list[str]) -> NDArray[np.int64]:
    """Let time go on where it starts anew, as in recordings put behind one another."""
    pts = packets.pts.copy()
    known = packets.dts != _UNKNOWN
    steps = np.where(known[:-1] & known[1:], np.diff(packets.dts), 1)
    for jump in np.flatnonzero((steps <= 0) & packets.is_key[1:]):
        pts[jump + 1 :] += int(np.median(steps)) - steps[jump]
        warnings.append(f"its timestamps jump back at frame {jump + 1}; time is taken to go on")
    return pts


def _first_shown(packets: Scan, order: NDArray[np.int64]) -> int:
    """Place in ``order`` of the first frame that is shown.

    Frames that are stored after the first key frame but shown before it may need frames that a
    cut took away; the decoder then leaves them out, and so must the index.
    """
    starts = np.flatnonzero(packets.is_key)[:1].tolist()
    if packets.first is not None and packets.first.pts is not None:
        starts.append(packets.first.pts)
    return int(order[starts].min())


def _by_decoding(path: Path, packets_: Scan) -> Presentation:
    count = len(packets_.pts)
    shown: dict[int, None] = {}  # an ordered set: one packet may give a frame twice

    def note(frames: Iterable[VideoFrame]) -> None:
        shown.update((frame.pts, None) for frame in frames if frame.pts is not None)

    with open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        for ordinal, packet in zip(range(count), packets(container, stream), strict=False):
            packet.pts = ordinal
            note(decode(stream.codec_context, packet))
        note(decode(stream.codec_context, None))
    ordinals = np.array(list(shown), dtype=np.int64)
    lost = np.setdiff1d(np.arange(count), ordinals)
    ticks = np.sort(packets_.dts[ordinals])
    return Presentation(
        order=_inverse(np.concatenate([ordinals, lost])),
        ordinals=ordinals,
        ticks=ticks if np.all(np.diff(ticks) > 0) else None,
    )


def _inverse(permutation: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse
