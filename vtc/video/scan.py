"""The index pass: the timestamps of a file's packets, and the order in which frames are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vtc.video.container import decode, open_video, packets
from vtc.video.files import FileIdentity
from vtc.video.timestamps import repair, spread_equal

_UNKNOWN = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Scan:
    """The timestamps and flags of the P packets, in order of decoding.

    Attributes:
        pts: ``[P]`` int64, the presentation time of the frame, in ticks of the stream.
        dts: ``[P]`` int64, its decoding time; both are ``_UNKNOWN`` if the file has none.
        is_key: ``[P]`` bool, whether decoding can begin at this packet.
        is_hidden: ``[P]`` bool, whether the frame is decoded but hidden by an edit list.
        first: The first decoded frame, its pts the ordinal of its packet.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    is_hidden: NDArray[np.bool_]
    first: VideoFrame | None


@dataclass(frozen=True)
class Presentation:
    """The order in which frames are shown, and their times.

    Attributes:
        order: ``[P]`` int64, the rank of each packet in order of presentation, hidden ones
            included.
        ordinals: ``[N]`` int64, the packets of the shown frames, in order of presentation.
        ticks: ``[N]`` float64, strictly ascending; None if the file has no timestamps.
    """

    order: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    ticks: NDArray[np.float64] | None


def scan(container: InputContainer, stream: VideoStream, warnings: list[str]) -> Scan:
    """Read all packets, and decode until the first frame."""
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


def presentation(
    file: FileIdentity, container: str, packets: Scan, warnings: list[str]
) -> Presentation:
    """Find the order of presentation: from timestamps, or by decoding if there are none."""
    # FFmpeg guesses the pts of an AVI, starting at any value.
    if container == "avi" or np.any(packets.pts == _UNKNOWN):
        return _by_decoding(file, packets)
    return _by_timestamp(packets, warnings)


def _by_timestamp(packets: Scan, warnings: list[str]) -> Presentation:
    pts, broken = repair(packets.pts)
    if broken:
        warnings.append(
            f"{broken} of {len(pts)} timestamps are far from those around them; these frames are "
            "placed between their neighbours"
        )
    pts = _without_jumps_back(pts, packets, warnings)
    order = _inverse(np.argsort(pts, kind="stable"))
    ordinals = np.flatnonzero(~packets.is_hidden & (order >= _first_shown(packets, order)))
    ordinals = ordinals[np.argsort(order[ordinals])]
    ticks, equal = spread_equal(pts[ordinals])
    if equal:
        warnings.append(
            f"{equal} of {len(ordinals)} frames have the timestamp of the frame before; they are "
            + ("spread up to the next one" if ticks is not None else "counted instead")
        )
    return Presentation(order, ordinals, ticks)


def _without_jumps_back(
    pts: NDArray[np.int64], packets: Scan, warnings: list[str]
) -> NDArray[np.int64]:
    """Make time continuous if it restarts, as in recordings joined end to end."""
    has_dts = packets.dts != _UNKNOWN
    dts = packets.dts.copy()
    dts[has_dts], _ = repair(dts[has_dts])
    steps = np.where(has_dts[:-1] & has_dts[1:], np.diff(dts), 1)
    for jump in np.flatnonzero((steps <= 0) & packets.is_key[1:]):
        pts[jump + 1 :] += int(np.median(steps)) - steps[jump]
        warnings.append(f"its timestamps jump back at frame {jump + 1}; time continues")
    return pts


def _first_shown(packets: Scan, order: NDArray[np.int64]) -> int:
    """Return the rank in ``order`` of the first frame that is shown.

    Frames that are stored after the first key frame but shown before it may depend on frames that
    a cut removed; the decoder skips them, and so must the index.
    """
    starts = np.flatnonzero(packets.is_key)[:1].tolist()
    if packets.first is not None and packets.first.pts is not None:
        starts.append(packets.first.pts)
    return int(order[starts].min())


def _by_decoding(file: FileIdentity, packets_: Scan) -> Presentation:
    count = len(packets_.pts)
    shown: dict[int, None] = {}  # an ordered set: a packet may yield its frame twice

    def note(frames: Iterable[VideoFrame]) -> None:
        shown.update((frame.pts, None) for frame in frames if frame.pts is not None)

    with open_video(file) as (container, stream):
        stream.thread_type = "AUTO"
        for ordinal, packet in zip(range(count), packets(container, stream), strict=False):
            packet.pts = ordinal
            note(decode(stream.codec_context, packet))
        note(decode(stream.codec_context, None))
    ordinals = np.array(list(shown), dtype=np.int64)
    lost = np.setdiff1d(np.arange(count), ordinals)
    ticks = np.sort(packets_.dts[ordinals]).astype(np.float64)
    return Presentation(
        order=_inverse(np.concatenate([ordinals, lost])),
        ordinals=ordinals,
        ticks=ticks if np.all(np.diff(ticks) > 0) else None,
    )


def _inverse(permutation: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse
