"""Opening files with PyAV, with errors that say what is wrong in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtc.video.errors import VideoError


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its best video stream.

    Raises:
        VideoError: There is no such file, or no video in it.
    """
    _require_content(path)
    try:
        # An absolute path, because FFmpeg takes "talk: 1.mp4" for a protocol called "talk".
        container = av.open(str(path.absolute()))
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: {_what_is_wrong(path, error)}") from error
    with container:
        yield container, _best_stream(container, path.name)


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Packets that hold a frame, in order of decoding: the same ones at every call on a file."""
    return (packet for packet in container.demux(stream) if packet.size)


def decode(decoder: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """Feed one packet (None: the end) and return the frames that came out.

    A packet that cannot be decoded gives nothing: the caller sees which frames are missing, and
    most damage costs only a few of them.
    """
    try:
        return decoder.decode(packet)
    except av.FFmpegError:
        return []


def _require_content(path: Path) -> None:
    if path.is_dir():
        raise VideoError(f"{path.name or path}: is a folder, not a video file")
    if not path.exists():
        raise VideoError(f"{path.name}: there is no such file in {path.absolute().parent}")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"{path.name}: the file is empty (0 bytes)")


def _what_is_wrong(path: Path, error: av.FFmpegError) -> str:
    if not isinstance(error, av.error.InvalidDataError):
        return f"cannot be opened ({error.strerror})"
    with path.open("rb") as file:
        is_mp4 = file.read(12)[4:8] == b"ftyp"
    if is_mp4:
        return "an MP4 without its index (moov): it was cut off or never finished; copy it again"
    return "not a video that FFmpeg can read"


def _best_stream(container: InputContainer, name: str) -> VideoStream:
    # FFmpeg takes the cover picture of a song for a video; the best of the others is what
    # av_find_best_stream prefers: the one with the most pixels.
    streams = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    best = container.streams.best("video")
    if isinstance(best, VideoStream) and best in streams:
        return best
    if not streams:
        audio = "only audio" if container.streams.audio else "nothing that can be shown"
        art = " and cover art" if container.streams.video else ""
        raise VideoError(f"{name}: has no video stream, {audio}{art}")
    return max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
