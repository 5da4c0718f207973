"""Open the shipped tiny models: a few megabytes of trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import vtc

WEIGHTS = Path(__file__).parent / "weights"
"""The folders ``vlm`` and ``dual_encoder``, and the record of their training in JSON."""


def shipped_model() -> Path:
    """Return the folder of the shipped language model, ``shipped`` in `vtc.open_model`."""
    return WEIGHTS / "vlm"


def load_trained(keyframes: int = 8) -> tuple[Any, Any]:
    """Open the shipped model, which answers questions about synthetic videos.

    Args:
        keyframes: Maximum number of keyframes.

    Returns:
        The wrapped model and its processor.

    >>> model, processor = load_trained()
    >>> example = make_example(0, frames=64, kind="colour", split="test")
    >>> vtc.ask(model, processor, example.video, example.question.text, max_new_tokens=2).text
    """
    return vtc.open_model("shipped", selector=vtc.selector("dks", keyframes=keyframes))
