"""Idefics3."""

from __future__ import annotations

from typing import Any

from vtc.interfaces.video_adapter import chat_prompt
from vtc.video import VideoSource
from vtc_adapters._frame_text import insert_texts
from vtc_adapters._idefics import IdeficsAdapter
from vtc_adapters._stills import with_one_token


class Idefics3Adapter(IdeficsAdapter):
    """Idefics3: each frame is a still image, not split into tiles."""

    def prompt(self, processor: Any, question: str, source: VideoSource) -> str:
        """Write a turn with marks around each frame; see `VideoAdapter.prompt`."""
        short = with_one_token(processor, "image_seq_len")
        text = short.replace_image_token({"rows": [[0]], "cols": [[0]]}, 0)
        prompt = chat_prompt(processor, [{"type": "image"}] * len(source), question)
        return insert_texts(processor, prompt, images=[text] * len(source))
