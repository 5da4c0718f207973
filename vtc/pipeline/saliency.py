"""Saliency of the vision tower: how much attention each patch receives in one of its layers.

The layer's attention runs as before, with SDPA or FlashAttention. A copy of the module then runs on
the same input with an attention function that computes the softmax of query and key in pieces, in
float32. So the norms, projections, rotary positions and quantised weights are the layer's own.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from vtc.pipeline.connector import model_with_modules, shallow_copy

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.interfaces.video_span import SliceFeatures

R = TypeVar("R")
_SALIENCY = "vtc_saliency"
_SCORES = 2**24
"""The maximum number of attention weights in memory at once: 64 MB of float32."""


def encode_with_saliency(
    adapter: VideoAdapter, model: Any, pixels: Mapping[str, Tensor]
) -> SliceFeatures:
    """Return `VideoAdapter.encode` of n slices with their ``saliency`` ``[n, M]`` float32.

    Raises:
        ValueError: The adapter names no attention module, or its query and key cannot be read.
    """
    features, received = with_attention(adapter, model, lambda view: adapter.encode(view, pixels))
    return replace(features, saliency=_per_token(adapter, model, pixels, received))


def tower_with_saliency(
    adapter: VideoAdapter, model: Any, pixels: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Return `VideoAdapter.tower` of n slices, then their saliency ``[n, M]`` float32."""
    states, received = with_attention(adapter, model, lambda view: adapter.tower(view, pixels))
    return *states, _per_token(adapter, model, pixels, received)


def saliency_module_of(adapter: VideoAdapter, model: Any) -> str:
    """Return `VideoAdapter.saliency_module`.

    Raises:
        ValueError: The adapter does not name one, or the tower has none.
    """
    try:
        return adapter.saliency_module(model)
    except NotImplementedError as error:
        raise ValueError(f"{error}; choose a merger without saliency") from error


def with_attention(adapter: VideoAdapter, model: Any, run: Callable[[Any], R]) -> tuple[R, Tensor]:
    """Run a function of a model and return the attention that each patch of the tower receives.

    The function gets a view of the model; the model itself is unchanged, and other threads do not
    see the view.

    Returns:
        The result, and the weights in the order in which the tower computed them: ``[B, L]``
        float32, or ``[1, patches]`` from towers that pack the slices. They are the mean over heads
        and queries; only the class token's query counts if there is one.

    Raises:
        ValueError: See `encode_with_saliency`.
    """
    name = saliency_module_of(adapter, model)
    attention = model.get_submodule(name)
    if not hasattr(getattr(attention, "config", None), "_attn_implementation"):
        raise ValueError(
            f"the saliency of the vision tower cannot be read: {name} is a "
            f"{type(attention).__name__}, which chooses no attention function of transformers; "
            "choose a merger without saliency"
        )
    _install_hooks(model, name)
    tap = _Tap(attention, adapter.has_class_token(model))
    result = run(model_with_modules(model, {name: tap}))
    if not tap.received:
        raise ValueError(
            f"the saliency of the vision tower cannot be read: {name} computed no attention; "
            "choose a merger without saliency"
        )
    return result, torch.cat(tap.received, dim=-1 if len(tap.received[0]) == 1 else 0)


class _Tap(nn.Module):
    """Runs an attention module, then a copy of it that notes the attention each token receives."""

    def __init__(self, attention: nn.Module, class_token: bool) -> None:
        super().__init__()
        _register()
        self.received: list[Tensor] = []
        self._attention = attention
        probe: Any = shallow_copy(attention)
        probe.config = copy.copy(probe.config)
        probe.config._attn_implementation = _SALIENCY
        probe._forward_hooks, probe._forward_pre_hooks = OrderedDict(), OrderedDict()
        probe.vtc_received, probe.vtc_class_token = self.received, class_token
        # In a tuple, so that it is no submodule, in which transformers would look for layers.
        self._probe = (probe,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self._attention(*args, **kwargs)
        with torch.no_grad():
            self._probe[0](*args, **kwargs)
        return result


def _note_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Note the attention that each key receives; return zeros for ``[B, L, H, D]``."""
    note = received_attention(query, key, attention_mask, scaling, module.vtc_class_token)
    module.vtc_received.append(note)
    return torch.zeros_like(query).transpose(1, 2), None


def received_attention(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    scaling: float | None = None,
    class_token: bool = False,
) -> Tensor:
    """Return ``[B, L]``, the attention that each key receives, averaged over heads and queries.

    Args:
        query: ``[B, H, L, d]``.
        key: ``[B, H', L, d]``; H is a multiple of H'.
        mask: ``[B, 1, L, L]``, bool or added to the scores, or ``[B, L]`` bool; None for none.
        scaling: The factor of the scores; None for 1 / sqrt(d).
        class_token: Whether only the first query counts.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    batch, heads, length, width = query.shape
    if class_token:
        query = query[:, :, :1]
    keys = key.to(exact).repeat_interleave(heads // key.shape[1], dim=1).transpose(-1, -2)
    scale = width**-0.5 if scaling is None else scaling
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None].bool()
    total = torch.zeros(batch, key.shape[2], dtype=exact, device=key.device)
    rows = max(1, _SCORES // (batch * heads * length))
    device = "cpu" if query.is_meta else query.device.type
    with torch.autocast(device, enabled=False):
        for start in range(0, query.shape[2], rows):
            block = query[:, :, start : start + rows]
            scores = (block.to(exact) * scale) @ keys
            if mask is not None:
                part = mask[:, :, start : start + block.shape[2]] if mask.shape[2] > 1 else mask
                scores = (
                    scores.masked_fill(~part, torch.finfo(exact).min)
                    if part.dtype == torch.bool
                    else scores + part
                )
            total += scores.softmax(dim=-1).sum(dim=(1, 2))
    return total / (heads * query.shape[2])


def _per_token(
    adapter: VideoAdapter, model: Any, pixels: Mapping[str, Tensor], received: Tensor
) -> Tensor:
    with torch.no_grad():
        return adapter.token_saliency(model, pixels, received).float()


def split_exactly(saliency: Tensor) -> Tensor:
    """Return float32 ``[n, M]`` as ``[n, M, 3]`` bfloat16, whose sum over the last axis it is."""
    parts: list[Tensor] = []
    for _ in range(3):  # 8 bits of the 24 each
        parts.append(saliency.to(torch.bfloat16))
        saliency = saliency - parts[-1].float()
    return torch.stack(parts, dim=-1)


def joined(parts: Tensor) -> Tensor:
    """Return ``[n, M]`` float32; undoes `split_exactly`."""
    first, *others = parts.float().unbind(dim=-1)
    for part in others:
        first = first + part
    return first


def _register() -> None:
    """Register the attention function with transformers under a name of our own."""
    from transformers import AttentionInterface

    AttentionInterface.register(_SALIENCY, _note_attention)


def _install_hooks(model: Any, name: str) -> None:
    """Let transformers install the hooks by which it returns hidden states.

    It does so once for each model, when they are first asked for. Installed through a view, they
    would be installed in the model a second time, and each state returned twice.
    """
    from transformers import PreTrainedModel
    from transformers.utils import output_capturing

    path = name.split(".")
    parents: Sequence[Any] = [model.get_submodule(".".join(path[:end])) for end in range(len(path))]
    towers = [parent for parent in parents if isinstance(parent, PreTrainedModel)]
    output_capturing.maybe_install_capturing_hooks(towers[-1])
