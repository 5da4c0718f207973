"""Refuse calls in which a video would silently stay uncompressed or vanish."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.pipeline.kv_cache import cached_length, given_cache
from vtc.pipeline.locate import has_video
from vtc.wrapped.access import is_enabled

if TYPE_CHECKING:
    from vtc.pipeline.toolkit import Toolkit

_LIBRARIES = ("vtc", "torch", "transformers", "peft", "accelerate")


def check_call(model: Any, toolkit: Toolkit, inputs: Mapping[str, Any], start: int) -> None:
    """Refuse calls in which a video would silently stay as it is, or be read from raw ids.

    Args:
        start: The number of ``input_ids`` columns that a cache holds.

    Raises:
        ValueError, RuntimeError: The inputs do not fit one another, or the cache.
    """
    if not is_enabled(model):
        if inputs.get("vtc_videos") is not None:
            raise ValueError(
                "inputs of vtc.prepare_inputs need the toolkit, which vtc.disabled has switched "
                "off; make inputs with the stock processor instead"
            )
        return
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")
    if encoded is not None:
        raise RuntimeError(
            "mm_encoder_outputs brings an encoded video into a wrapped model, so nothing was "
            "compressed; give the video itself, or use `with vtc.disabled(model):`"
        )
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None:
        return
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        shape = f"[{', '.join(map(str, ids.shape))}]" if hasattr(ids, "shape") else ""
        raise TypeError(
            f"expected input_ids to be a tensor [B, L], got {type(ids).__name__}{shape}"
        )
    cache = given_cache(inputs)
    cached = cached_length(cache)
    if torch.compiler.is_compiling():
        return
    _check_mask(cache, mask, cached, ids.shape[1] + (cached if start == 0 else 0))
    if cached and start == 0 and ids.shape[1] == 1:
        return  # a step of the caller's own loop: one new token is no video
    if _continues(getattr(cache, "vtc_restored_prompt", None), ids):
        raise ValueError(
            "input_ids continues a prompt that was restored, but the cache holds the shortened "
            "one: call generate with vtc_restore_prompt=False in the earlier turn, and continue "
            "from its result"
        )
    if not has_video(toolkit.adapter, inputs) and inputs.get("inputs_embeds") is None:
        if toolkit.adapter.modality == "image":
            _warn_of_stills(model, toolkit, inputs)
        # The first token that a cache lacks is the last one that the model generated.
        elif bool((ids[:, start + bool(start) :] == toolkit.adapter.video_token_id(model)).any()):
            raise ValueError(
                "input_ids has video placeholders, but no video came with them; give the video "
                "with them, as the processor or vtc.prepare_inputs does"
            )


def _warn_of_stills(model: Any, toolkit: Toolkit, inputs: Mapping[str, Any]) -> None:
    """Warn where frames enter as still images and the caller did not declare them."""
    if inputs.get("vtc_frames") is None and toolkit.adapter.could_be_frames(model, inputs):
        warnings.warn(
            "several pictures came without vtc_frames, so they count as still images and nothing "
            "was compressed; if they are the frames of a video, pass their number as vtc_frames=N "
            "(or a list with a number for each row), and vtc_frames=0 if they are not",
            stacklevel=_depth_of_caller(),
        )


def _depth_of_caller() -> int:
    """Return the ``stacklevel`` of the first caller outside of the libraries in between."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            break
        depth, frame = depth + 1, frame.f_back
    return depth


def _check_mask(cache: Any, mask: Any, cached: int, length: int) -> None:
    shortened = getattr(cache, "vtc_is_shortened", False)
    if shortened and isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] > length:
        raise ValueError(
            f"attention_mask has {mask.shape[1]} columns for {length} tokens, {cached} of them in "
            "the cache: the cache is of the shortened prompt, so take its mask "
            "from the shortened prompt as well (vtc_restore_prompt=False), or leave it out"
        )


def _continues(prompt: Tensor | None, ids: Tensor) -> bool:
    """Return whether some row begins as some row of a prompt does; a cache may be cut to rows."""
    if prompt is None or prompt.shape[1] > ids.shape[1]:
        return False
    begins = ids[:, None, : prompt.shape[1]] == prompt.to(ids.device)
    return bool(begins.all(-1).any())
