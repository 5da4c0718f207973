"""The trained tiny models that are shipped: a few megabytes that really answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"
"""Folders ``vlm`` and ``dual_encoder``, and how both were trained, in JSON."""


def load_trained() -> tuple[Any, Any, str]:
    """A model that answers questions about synthetic videos, its processor, its frame encoder.

    >>> model, processor, encoder = load_trained()
    >>> selector = vtc.selector("dks", keyframes=8)
    >>> model = vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)
    >>> example = make_example(0, frames=64, kind="colour", split="test")
    >>> vtc.ask(model, processor, example.video, example.question.text, max_new_tokens=2).text
    """
    from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

    model = LlavaOnevisionForConditionalGeneration.from_pretrained(WEIGHTS / "vlm").eval()
    processor = AutoProcessor.from_pretrained(WEIGHTS / "vlm")
    return model, processor, str(WEIGHTS / "dual_encoder")
