"""The trained tiny models that are shipped: a few megabytes that really answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import vtc

WEIGHTS = Path(__file__).parent / "weights"
"""Folders ``vlm`` and ``dual_encoder``, and how both were trained, in JSON."""


def shipped_model() -> Path:
    """The folder of the language model that is shipped, which `vtc.open_model` opens."""
    return WEIGHTS / "vlm"


def load_trained(keyframes: int = 8) -> tuple[Any, Any]:
    """A wrapped model that answers questions about synthetic videos, and its processor.

    Args:
        keyframes: How many ``dks`` keeps at most.

    >>> model, processor = load_trained()
    >>> example = make_example(0, frames=64, kind="colour", split="test")
    >>> vtc.ask(model, processor, example.video, example.question.text, max_new_tokens=2).text
    """
    selector = vtc.selector("dks", keyframes=keyframes)
    model = vtc.from_pretrained(WEIGHTS / "vlm", selector=selector).eval()
    return model, model.vtc.processor
