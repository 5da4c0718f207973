"""Idefics3."""

from __future__ import annotations

from typing import Any

from vtc.interfaces.video_adapter import chat_prompt
from vtc.video import VideoSource
from vtc_adapters._frame_text import written_out
from vtc_adapters._idefics import IdeficsAdapter
from vtc_adapters._stills import one_token_each


class Idefics3Adapter(IdeficsAdapter):
    """Idefics3: each frame is a still image, not split into tiles."""

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write a turn with marks around each frame; see `VideoAdapter.prompt`."""
        brief = one_token_each(processor, "image_seq_len")
        text = brief.replace_image_token({"rows": [[0]], "cols": [[0]]}, 0)
        prompt = chat_prompt(processor, [{"type": "image"}] * len(source), question)
        return written_out(processor, prompt, images=[text] * len(source))
