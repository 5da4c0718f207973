"""Long videos for the vision-language models you already have.

    model = vtc.wrap(model, selector="dks", merger="dfm", processor=processor)
    answer = vtc.ask(model, processor, "talk.mp4", "What is on the last slide?")

Importing ``vtc`` imports neither torch, nor transformers, nor any plug-in.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtc import testing
    from vtc.asking import Answer, ask, prepare_inputs
    from vtc.checkpoint import from_pretrained, save_pretrained
    from vtc.frame_selector import FrameSelector, Selection
    from vtc.hookspecs import hookimpl
    from vtc.registry import PartInfo, merger, parts, selector
    from vtc.report import Report
    from vtc.token_merger import TokenMerger
    from vtc.video import VideoError, VideoSource
    from vtc.video_adapter import VideoAdapter
    from vtc.video_span import SliceFeatures, VideoSpan
    from vtc.wrapping import disabled, is_wrapped, last_report, unwrap, wrap

_HOME = {
    "Answer": "vtc.asking",
    "FrameSelector": "vtc.frame_selector",
    "PartInfo": "vtc.registry",
    "Report": "vtc.report",
    "Selection": "vtc.frame_selector",
    "SliceFeatures": "vtc.video_span",
    "TokenMerger": "vtc.token_merger",
    "VideoAdapter": "vtc.video_adapter",
    "VideoError": "vtc.video",
    "VideoSource": "vtc.video",
    "VideoSpan": "vtc.video_span",
    "ask": "vtc.asking",
    "disabled": "vtc.wrapping",
    "from_pretrained": "vtc.checkpoint",
    "hookimpl": "vtc.hookspecs",
    "is_wrapped": "vtc.wrapping",
    "last_report": "vtc.wrapping",
    "merger": "vtc.registry",
    "parts": "vtc.registry",
    "prepare_inputs": "vtc.asking",
    "save_pretrained": "vtc.checkpoint",
    "selector": "vtc.registry",
    "unwrap": "vtc.wrapping",
    "wrap": "vtc.wrapping",
}

__all__ = [
    "Answer",
    "FrameSelector",
    "PartInfo",
    "Report",
    "Selection",
    "SliceFeatures",
    "TokenMerger",
    "VideoAdapter",
    "VideoError",
    "VideoSource",
    "VideoSpan",
    "ask",
    "disabled",
    "from_pretrained",
    "hookimpl",
    "is_wrapped",
    "last_report",
    "merger",
    "parts",
    "prepare_inputs",
    "save_pretrained",
    "selector",
    "testing",
    "unwrap",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("vtc.testing")
    if name == "__version__":
        from importlib.metadata import version

        return version("video-token-compression")
    if name not in _HOME:
        raise AttributeError(f"module 'vtc' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
