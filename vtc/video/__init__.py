"""Read videos: exact frames, in chunks, from every format that FFmpeg can open."""

from __future__ import annotations

from vtc.video.errors import VideoError
from vtc.video.sequence_reader import FrameSequence
from vtc.video.source import Chunk, VideoSource

__all__ = ["Chunk", "FrameSequence", "VideoError", "VideoSource"]
