"""A video loader for vLLM that keeps the keyframes of a query.

vLLM calls `register` when it starts, through the entry-point group ``vllm.general_plugins``. A
request then chooses the loader and names its query::

    media_io_kwargs={"video": {"video_backend": "vtc", "query": "...", "num_frames": 32}}

Only the selection reaches the model: vLLM encodes the keyframes itself, and nothing is merged.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtc.export.chat import frame_numbers

if TYPE_CHECKING:
    from vtc.encoders.lazy import LazyEncoder

KEYFRAMES = 32
"""The default number of keyframes of a request."""


def register() -> None:
    """Register the loader under the name ``vtc``."""
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader

    @VIDEO_LOADER_REGISTRY.register("vtc")
    class KeyframeLoader(VideoLoader):  # type: ignore[misc]
        @classmethod
        def load_bytes(
            cls, data: bytes, num_frames: int = -1, fps: float = -1, **options: Any
        ) -> tuple[Any, dict[str, Any]]:
            return load_keyframes(data, num_frames, fps, **options)


def load_keyframes(
    data: bytes,
    num_frames: int = -1,
    fps: float = -1,
    *,
    query: str | None = None,
    selector: str = "dks",
    encoder: str = "open_clip:ViT-B-32/openai",
    device: str = "cpu",
    **_: Any,
) -> tuple[Any, dict[str, Any]]:
    """Return the keyframes of a video file, and their positions in it.

    Args:
        data: The file's bytes.
        num_frames: The maximum number of keyframes; 32 if it is not above 0.
        fps: Frames to read per second; 1 if it is not above 0.
        query: The query for the selector.
        selector, encoder, device: As for ``vtc select``.

    Returns:
        ``[K, H, W, 3]`` uint8 RGB, and vLLM's metadata.

    Raises:
        ValueError: The selector needs a query, or keeps no frame.
        vtc.VideoError: The file cannot be read.
    """
    from vtc.pipeline.selecting import select_video
    from vtc.video import VideoSource

    with tempfile.TemporaryDirectory(prefix="vtc-") as folder:
        file = Path(folder) / "video"
        file.write_bytes(data)
        source = VideoSource(file, fps=fps if fps > 0 else 1.0)
        spec = {"name": selector, "keyframes": num_frames if num_frames > 0 else KEYFRAMES}
        report = select_video(source, query, spec, _encoder(encoder, device))
        indices = [frame.index for frame in report.keyframes]
        if not indices:
            raise ValueError(f"selector {selector!r} keeps no frame for {query!r}")
        frames = source.frames(indices)
    metadata = {"video_backend": "vtc", "do_sample_frames": False}
    return frames, {**frame_numbers(source, indices), **metadata}


@cache
def _encoder(name: str, device: str) -> LazyEncoder:
    """Return the encoder, which all requests share."""
    from vtc.encoders.lazy import LazyEncoder

    return LazyEncoder(name, device=device)
