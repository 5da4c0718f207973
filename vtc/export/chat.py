"""Keyframes as a chat message for servers with the OpenAI protocol."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from vtc.pages.text import clock, clock_decimals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtc.video import VideoSource

_QUALITY = 85
"""The quality of the JPEG files."""


def openai_request(
    source: VideoSource, keyframes: Sequence[int], query: str | None
) -> dict[str, Any]:
    """Return ``messages`` with the time and the image of each keyframe, then the query.

    Args:
        keyframes: Numbers of samples of ``source``, ascending.

    Returns:
        ``{"messages": [...]}``; images are JPEG files of full size in ``data:`` addresses.
    """
    times = source.timestamps[list(keyframes)].tolist()
    decimals = clock_decimals(times)
    content: list[dict[str, Any]] = []
    for time, jpeg in zip(times, jpegs(source, keyframes), strict=True):
        url = f"data:image/jpeg;base64,{jpeg}"
        content.append({"type": "text", "text": f"[{clock(time, decimals)}]"})
        content.append({"type": "image_url", "image_url": {"url": url}})
    return {"messages": [{"role": "user", "content": content + _question(query)}]}


def vllm_request(
    source: VideoSource, keyframes: Sequence[int], query: str | None
) -> dict[str, Any]:
    """Return ``messages`` and ``media_io_kwargs`` of a chat request to vLLM.

    The keyframes are one video, ``data:video/jpeg;base64,<jpeg>,<jpeg>...``, and
    ``media_io_kwargs`` holds their positions in the file, so that the model sees their times.
    """
    url = "data:video/jpeg;base64," + ",".join(jpegs(source, keyframes))
    content = [{"type": "video_url", "video_url": {"url": url}}, *_question(query)]
    return {
        "messages": [{"role": "user", "content": content}],
        "media_io_kwargs": {"video": frame_numbers(source, keyframes)},
    }


def frame_numbers(source: VideoSource, keyframes: Sequence[int]) -> dict[str, Any]:
    """Return the positions of keyframes in the file, in vLLM's form.

    ``frames_indices`` count the frames of the file, so ``frames_indices / fps`` are seconds.
    """
    info = source.info
    last = max(0, info.frame_count - 1)
    times = source.timestamps[list(keyframes)]
    return {
        "fps": float(info.native_fps),
        "frames_indices": [min(last, round(time * info.native_fps)) for time in times.tolist()],
        "total_num_frames": int(info.frame_count),
        "duration": float(info.duration),
    }


def jpegs(source: VideoSource, keyframes: Sequence[int]) -> list[str]:
    """Return keyframes as JPEG files in base64."""
    return [_jpeg(frame) for chunk in source.chunks(list(keyframes)) for frame in chunk.frames]


def _jpeg(frame: NDArray[Any]) -> str:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=_QUALITY)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _question(query: str | None) -> list[dict[str, Any]]:
    return [] if query is None else [{"type": "text", "text": query}]
