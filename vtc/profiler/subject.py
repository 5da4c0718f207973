"""What is counted: a model without weights, and the parts that compress its videos."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from vtc.encoders.base import EncoderOptions, FrameEncoder
from vtc.encoders.lazy import load_encoder
from vtc.profiler.counting import COUNTED_ATTENTION, register_attention

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import FrameSelector
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.interfaces.video_adapter import VideoAdapter


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What `vtc.profiler.count` counts.

    Attributes:
        model: On the meta device, made by `vtc.profiler.models.empty_model`.
        processor: The model's own.
        adapter, selector, merger: The parts; the merger is built.
        encoder: What the selector looks through, on the meta device where that can be.
        query_dim: Dq that the merger was built with; None for the width of the patches.
        size: Height and width of the video's frames.
        text_tokens: The prompt without the video.
        new_tokens: Tokens of the answer, at least 1; the first one comes with the prefill.
        chunk: Slices that the vision tower sees at a time.
        prefill_chunk: Tokens of the prompt that the language model sees at a time
            (``prefill_chunk_size`` of ``generate``); None for all of them.
        fast_path: Other frames are merged from the patches of ``encoder``
            (``model.vtc.merge_encoder_patches()``).
    """

    model: Any
    processor: Any
    adapter: VideoAdapter
    selector: FrameSelector
    merger: TokenMerger
    encoder: FrameEncoder | None
    query_dim: int | None = None
    size: tuple[int, int] = (360, 640)
    text_tokens: int = 64
    new_tokens: int = 16
    chunk: int = 16
    prefill_chunk: int | None = None
    fast_path: bool = False
    chunks: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Costs that were counted before, by what was counted."""

    def __post_init__(self) -> None:
        for name in ("text_tokens", "new_tokens", "chunk"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}={value}: allowed is a number of at least 1")
        if self.prefill_chunk is not None and self.prefill_chunk < 1:
            raise ValueError(
                f"prefill_chunk={self.prefill_chunk}: allowed is a number of at least 1, or None"
            )
        if min(self.size) < 1:
            raise ValueError(f"size={self.size}: allowed are height and width of at least 1")


def encoder_without_weights(spec: str, device: str = "meta") -> FrameEncoder:
    """The frame encoder of a name: without weights on "meta", with random ones elsewhere.

    Only the architectures of open_clip are known without their files; others are loaded.
    """
    options = EncoderOptions(device=device)
    if spec.startswith("open_clip:") and "/" in spec.removeprefix("open_clip:").strip("/"):
        from vtc.encoders.openclip import untrained_open_clip

        return untrained_open_clip(spec, options)
    encoder = load_encoder(spec, device="cpu" if device == "meta" else device)
    return on_meta(encoder) if device == "meta" else encoder


def on_meta(encoder: FrameEncoder) -> FrameEncoder:
    """A copy of an encoder on the meta device; an object of the user's own stays what it is."""
    from transformers import PreTrainedModel

    from vtc.encoders.image import ImageEncoder

    if not isinstance(encoder, ImageEncoder):
        return encoder
    moved = copy.deepcopy(encoder)
    moved.to("meta", EncoderOptions().dtype)
    if isinstance(moved._model, PreTrainedModel):
        register_attention()
        moved._model.set_attn_implementation(COUNTED_ATTENTION)
    return moved


def gives_patches(encoder: FrameEncoder) -> bool:
    """Whether the fast path can merge what an encoder sees; only known without weights for ours."""
    from vtc.encoders.image import ImageEncoder

    return isinstance(encoder, ImageEncoder)


def bytes_of(model: Any) -> int:
    """The bytes of a module's parameters, shared ones once; 0 for what is no module."""
    module = getattr(model, "_model", model)  # of a frame encoder
    if not isinstance(module, nn.Module):
        return 0
    return sum(parameter.nbytes for parameter in module.parameters())
