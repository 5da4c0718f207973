"""Open files with PyAV, with one-line error messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vtc.video.errors import VideoError
from vtc.video.files import FileIdentity

_VIDEO_FORMATS = (
    "mov matroska avi mpegts mpeg mpegvideo flv asf ogg rm mxf gxf nut dv m4v wtv nsv nuv ivf obu "
    "av1 h261 h263 h264 hevc vvc evc vc1 dirac cavsvideo dnxhd avs2 avs3 yuv4mpegpipe swf roq bink "
    "smk flic gif apng webp jpegxl_anim mjpeg mjpeg_2000"
)
_PICTURE_FORMATS = (
    "image2 png_pipe jpeg_pipe webp_pipe bmp_pipe gif_pipe tiff_pipe jpegls_pipe j2k_pipe "
    "jpegxl_pipe ppm_pipe pgm_pipe pbm_pipe pam_pipe qoi_pipe exr_pipe hdr_pipe dpx_pipe psd_pipe "
    "sgi_pipe pcx_pipe"
)
_AUDIO_FORMATS = "mp3 wav flac aac ac3 aiff au caf w64"  # opened for a better error message
_OPTIONS = {
    # Other formats refer to further files, or fetch them from a network.
    "format_whitelist": ",".join(f"{_VIDEO_FORMATS} {_PICTURE_FORMATS} {_AUDIO_FORMATS}".split()),
    "protocol_whitelist": "file",
    "pattern_type": "none",  # "a%d.png" is a file of that name
}
_REFERENCES = {
    b"ffconcat": "an ffconcat script",
    b"#EXTM3U": "an HLS playlist",
    b"v=0": "an SDP description",
    b"<?xml": "a description in XML",
    b"[playlist]": "a playlist",
}
"""The first bytes of files that name other files or addresses."""


@contextmanager
def open_video(file: FileIdentity) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its best video stream; formats that refer to other files are refused.

    Raises:
        VideoError: The file has no video, or was changed since it was indexed.
    """
    path = file.path
    file.require_same()
    try:
        # An absolute path, because FFmpeg reads "talk: 1.mp4" as a protocol called "talk".
        container = av.open(str(path.absolute()), options=_OPTIONS)
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: {_reason(file, error)}") from error
    with container:
        file.require_same()
        yield container, _best_stream(container, path.name)


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Return the packets with a frame, in order of decoding; every call gives the same packets."""
    return (packet for packet in container.demux(stream) if packet.size)


def decode(decoder: VideoCodecContext, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """Send one packet (None: the end) to the decoder and return the frames that it outputs.

    A packet that cannot be decoded gives no frames. The caller detects the missing ones; most
    damage loses only a few.
    """
    try:
        return decoder.decode(packet)
    except av.FFmpegError:
        return []


def _reason(file: FileIdentity, error: av.FFmpegError) -> str:
    """Return the reason why a file cannot be opened."""
    if not isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):
        return f"cannot be opened ({error.strerror})"
    with file.path.open("rb") as content:
        start = content.read(64)
    for first_bytes, kind in _REFERENCES.items():
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(first_bytes):
            return f"is {kind}, which names other files; give the video file itself"
    if start[4:8] == b"ftyp":
        return "an MP4 without its index (moov): it was cut off or never finished; copy it again"
    return "not a video that FFmpeg can read"


def _best_stream(container: InputContainer, name: str) -> VideoStream:
    # FFmpeg treats the cover picture of a song as a video stream. Among the other streams, take
    # the one that av_find_best_stream prefers, else the one with the most pixels.
    streams = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if streams and not decodable:
        raise VideoError(f"{name}: no decoder for its video stream; is the file complete?")
    streams = decodable
    best = container.streams.best("video")
    if isinstance(best, VideoStream) and best in streams:
        return best
    if not streams:
        audio = "only audio" if container.streams.audio else "nothing that can be shown"
        art = " and cover art" if container.streams.video else ""
        raise VideoError(f"{name}: has no video stream, {audio}{art}")
    return max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
