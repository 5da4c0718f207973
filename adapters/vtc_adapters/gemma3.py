"""Gemma 3."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from vtc.interfaces.video_adapter import chat_prompt
from vtc.video import VideoSource
from vtc_adapters._frame_text import insert_texts
from vtc_adapters._stills import FrameTextStillsAdapter


class Gemma3Adapter(FrameTextStillsAdapter):
    """Gemma 3: each frame is a still image; the tokens of a picture attend to one another.

    The language model treats merged tokens without text between them as one picture, so they attend
    to one another, including later ones.
    """

    tiling = "do_pan_and_scan"
    causal = False

    def slice_grid(self, model: Any, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the square grid of ``mm_tokens_per_image`` tokens."""
        side = isqrt(model.config.mm_tokens_per_image)
        return side, side

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write a turn with marks around each frame; see `VideoAdapter.prompt`."""
        token = processor.tokenizer.image_token
        text = processor.full_image_sequence.replace(token * processor.image_seq_length, token)
        prompt = chat_prompt(processor, [{"type": "image"}] * len(source), question)
        return insert_texts(processor, prompt, images=[text] * len(source))

    def text_inputs(self, model: Any, ids: Tensor) -> dict[str, Tensor]:
        """Return ``token_type_ids`` ``[B, L]``: 1 for placeholders, 0 for text."""
        return {"token_type_ids": (ids == self.video_token_id(model)).long()}
