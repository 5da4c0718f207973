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
    from vtc.encoders.lazy import LazyEncoder, load_encoder
    from vtc.interfaces.frame_selector import FrameSelector, LazySelector, Selection
    from vtc.interfaces.segment_merger import SegmentMerger
    from vtc.interfaces.token_budget import FrameStatistics, TokenBudget
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.interfaces.token_pruner import TokenPruner
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.interfaces.video_span import SliceFeatures, VideoSpan
    from vtc.pipeline.report import Report
    from vtc.plugins.hookspecs import hookimpl
    from vtc.plugins.registry import PartInfo, budget, merger, parts, selector
    from vtc.video import VideoError, VideoSource
    from vtc.wrapped.access import disabled, is_wrapped, last_report
    from vtc.wrapped.asking import Answer, ask, prepare_inputs
    from vtc.wrapped.loading import from_pretrained
    from vtc.wrapped.opening import open_model
    from vtc.wrapped.saving import save_pretrained
    from vtc.wrapped.wrapping import unwrap, wrap

_HOME = {
    "Answer": "vtc.wrapped.asking",
    "FrameSelector": "vtc.interfaces.frame_selector",
    "FrameStatistics": "vtc.interfaces.token_budget",
    "LazyEncoder": "vtc.encoders.lazy",
    "LazySelector": "vtc.interfaces.frame_selector",
    "PartInfo": "vtc.plugins.registry",
    "Report": "vtc.pipeline.report",
    "SegmentMerger": "vtc.interfaces.segment_merger",
    "Selection": "vtc.interfaces.frame_selector",
    "SliceFeatures": "vtc.interfaces.video_span",
    "TokenBudget": "vtc.interfaces.token_budget",
    "TokenMerger": "vtc.interfaces.token_merger",
    "TokenPruner": "vtc.interfaces.token_pruner",
    "VideoAdapter": "vtc.interfaces.video_adapter",
    "VideoError": "vtc.video",
    "VideoSource": "vtc.video",
    "VideoSpan": "vtc.interfaces.video_span",
    "ask": "vtc.wrapped.asking",
    "budget": "vtc.plugins.registry",
    "disabled": "vtc.wrapped.access",
    "from_pretrained": "vtc.wrapped.loading",
    "hookimpl": "vtc.plugins.hookspecs",
    "is_wrapped": "vtc.wrapped.access",
    "last_report": "vtc.wrapped.access",
    "load_encoder": "vtc.encoders.lazy",
    "merger": "vtc.plugins.registry",
    "open_model": "vtc.wrapped.opening",
    "parts": "vtc.plugins.registry",
    "prepare_inputs": "vtc.wrapped.asking",
    "save_pretrained": "vtc.wrapped.saving",
    "selector": "vtc.plugins.registry",
    "unwrap": "vtc.wrapped.wrapping",
    "wrap": "vtc.wrapped.wrapping",
}

__all__ = [
    "Answer",
    "FrameSelector",
    "FrameStatistics",
    "LazyEncoder",
    "LazySelector",
    "PartInfo",
    "Report",
    "SegmentMerger",
    "Selection",
    "SliceFeatures",
    "TokenBudget",
    "TokenMerger",
    "TokenPruner",
    "VideoAdapter",
    "VideoError",
    "VideoSource",
    "VideoSpan",
    "ask",
    "budget",
    "disabled",
    "from_pretrained",
    "hookimpl",
    "is_wrapped",
    "last_report",
    "load_encoder",
    "merger",
    "open_model",
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
