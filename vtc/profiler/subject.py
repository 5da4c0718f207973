"""The subject of a count: a model without weights, and the parts that compress its videos."""

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
    """The subject of `vtc.profiler.count`.

    Attributes:
        model: The model on the meta device, made by `vtc.profiler.models.empty_model`.
        processor: The model's processor.
        adapter, selector, merger: The parts; the merger is built.
        encoder: The selector's frame encoder, on the meta device if possible.
        query_dim: Dq, the width of the merger's query; None for the width of the patches.
        size: The height and width of the frames in pixels.
        text_tokens: The number of prompt tokens without the video.
        new_tokens: The number of tokens of the answer, at least 1; the prefill gives the first.
        chunk: Slices that the vision tower encodes at a time.
        prefill_chunk: Prompt tokens that the language model reads at a time
            (``prefill_chunk_size`` of ``generate``); None for all of them.
        fast_path: Whether non-keyframes are merged from the patches of ``encoder``
            (``model.vtc.merge_encoder_patches()``).
        max_tokens: A budget of visual tokens per video; None without one.
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
    max_tokens: int | None = None
    chunks: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Cached costs of chunks."""

    def __post_init__(self) -> None:
        for name in ("text_tokens", "new_tokens", "chunk"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        if self.prefill_chunk is not None and self.prefill_chunk < 1:
            raise ValueError(f"expected prefill_chunk to be None or >= 1, got {self.prefill_chunk}")
        if min(self.size) < 1:
            raise ValueError(f"expected size to be height and width >= 1, got {self.size}")


def encoder_without_weights(spec: str, device: str = "meta") -> FrameEncoder:
    """Return a frame encoder, without weights on "meta", with random weights elsewhere.

    Only open_clip's architectures are available without files; other encoders are loaded.
    """
    options = EncoderOptions(device=device)
    if spec.startswith("open_clip:") and "/" in spec.removeprefix("open_clip:").strip("/"):
        from vtc.encoders.openclip import untrained_open_clip

        return untrained_open_clip(spec, options)
    encoder = load_encoder(spec, device="cpu" if device == "meta" else device)
    return on_meta(encoder) if device == "meta" else encoder


def on_meta(encoder: FrameEncoder) -> FrameEncoder:
    """Return a copy of an encoder on the meta device; return a user's object unchanged."""
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
    """Return whether an encoder has patches for the fast path, as those of the toolkit do."""
    from vtc.encoders.image import ImageEncoder

    return isinstance(encoder, ImageEncoder)


def bytes_of(model: Any) -> int:
    """Return the bytes of a module's parameters, counting shared ones once; 0 for other objects."""
    module = getattr(model, "_model", model)  # the module of a frame encoder
    if not isinstance(module, nn.Module):
        return 0
    return sum(parameter.nbytes for parameter in module.parameters())
