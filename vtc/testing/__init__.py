"""Helpers for tests of vtc and of plug-ins: tiny models and encoders that need no download.

The contracts for plug-ins, which need pytest, are imported on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vtc.encoders.tiny import save_tiny_clip, save_tiny_siglip, save_tiny_timm, tiny_encoder
from vtc.interfaces.renamed import warn_renamed
from vtc.profiler.counters import LiveBytes, LiveNumbers, MultiplyAccumulates
from vtc.testing.embeddings import LargestTensor, scene_embeddings
from vtc.testing.inputs import cache_argument, drifting_video, stock_inputs
from vtc.testing.models import redraw, tiny
from vtc.testing.videos import moving_squares
from vtc.video.writing import write_video

if TYPE_CHECKING:
    from vtc.testing.adapter_suite import AdapterContract
    from vtc.testing.budget_suite import BudgetContract
    from vtc.testing.merger_suite import MergerContract
    from vtc.testing.selector_suite import SelectorContract

_CONTRACTS = {
    "AdapterContract": "vtc.testing.adapter_suite",
    "BudgetContract": "vtc.testing.budget_suite",
    "MergerContract": "vtc.testing.merger_suite",
    "SelectorContract": "vtc.testing.selector_suite",
}

__all__ = [
    "AdapterContract",
    "BudgetContract",
    "LargestTensor",
    "LiveBytes",
    "LiveNumbers",
    "MergerContract",
    "MultiplyAccumulates",
    "SelectorContract",
    "cache_argument",
    "drifting_video",
    "moving_squares",
    "redraw",
    "save_tiny_clip",
    "save_tiny_siglip",
    "save_tiny_timm",
    "scene_embeddings",
    "stock_inputs",
    "tiny",
    "tiny_encoder",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name == "byte_tokenizer":
        warn_renamed("vtc.testing.byte_tokenizer", "vtc_adapters.tiny.tokenizer.byte_tokenizer")
        return import_module("vtc_adapters.tiny.tokenizer").byte_tokenizer
    if name not in _CONTRACTS:
        raise AttributeError(f"module 'vtc.testing' has no attribute {name!r}")
    module = _CONTRACTS[name]
    if module not in sys.modules:
        try:
            import pytest
        except ModuleNotFoundError as error:
            message = f"vtc.testing.{name} needs pytest: pip install pytest"
            raise ModuleNotFoundError(message, name=error.name) from error
        # A failing check then shows its values, as in a test file.
        pytest.register_assert_rewrite(module)
    return getattr(import_module(module), name)
