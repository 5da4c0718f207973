"""Compress the videos of direct calls of the inner model (``model.model``).

Trainers with a fused loss replace the ``forward`` of a model. Theirs calls the inner model and
computes the loss from its hidden states and the caller's labels. So the inner model compresses
the videos of such a call, and returns the hidden states at the caller's positions.
"""

from __future__ import annotations

import functools
import inspect
import operator
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vtc.pipeline.call import Call
from vtc.pipeline.context import warn_beyond_context
from vtc.pipeline.kv_cache import mark_shortened, note_offsets, returned_cache
from vtc.pipeline.locate import has_video
from vtc.pipeline.prepare import OUR_INPUTS, Prepared, packed, prepare
from vtc.wrapped.access import is_enabled, own_toolkit
from vtc.wrapped.guard import check_call

if TYPE_CHECKING:
    from vtc.interfaces.video_adapter import VideoAdapter

if TYPE_CHECKING:
    from vtc.pipeline.toolkit import Toolkit


class _Encoded(dict[str, Any]):
    """``mm_encoder_outputs`` of a call of the inner model, with its prepared inputs."""

    prepared: Prepared
    adapter: VideoAdapter


class InnerModelHook:
    """Compresses the videos of calls that reach the inner model directly."""

    # Before `watch` is called: an inner model that is copied alone has no wrapped model.
    _model: Callable[[], Any] = staticmethod(lambda: None)

    def __init__(self, model: Any) -> None:
        self.watch(model)

    def watch(self, model: Any) -> None:
        """Set the wrapped model, as a weak reference, so that it is freed like a stock model."""
        self._model = weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a copied model calls `watch` itself

    def __call__(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        """Return the arguments of the inner ``forward`` with compressed videos; None: unchanged.

        Raises:
            ValueError: As for `vtc.pipeline.prepare.prepare`.
        """
        model = self._model()
        toolkit = None if model is None else own_toolkit(model)
        if toolkit is None:
            return None
        names = list(inspect.signature(type(module).forward).parameters)[1:] if args else []
        inputs = dict(zip(names, args, strict=False)) | kwargs
        ours = any(inputs.get(name) is not None for name in OUR_INPUTS)
        if ours:
            check_call(model, toolkit, inputs, start=0)
        if is_enabled(model) and has_video(toolkit.adapter, inputs):
            return (), _compressed(model, toolkit, inputs)
        kept = {name: value for name, value in inputs.items() if name not in OUR_INPUTS}
        return ((), kept) if ours else None


def _compressed(model: Any, toolkit: Toolkit, inputs: dict[str, Any]) -> dict[str, Any]:
    toolkit.note_report(None)
    with toolkit.gate.call():
        inputs, prepared = stock_inputs(Call(model, toolkit, inputs))
    toolkit.note_report(prepared.report)
    encoded = _Encoded(inputs["mm_encoder_outputs"])
    encoded.prepared = prepared
    encoded.adapter = toolkit.adapter
    return {**inputs, "mm_encoder_outputs": encoded}


def require_features(forward: Callable[..., Any]) -> None:
    """Raise if ``forward`` does not accept ``mm_encoder_outputs``.

    Raises:
        ValueError: It is not a ``forward`` of transformers 5.18 or newer.
    """
    if "mm_encoder_outputs" not in inspect.signature(forward).parameters:
        raise ValueError(
            f"{getattr(forward, '__qualname__', forward)} takes no mm_encoder_outputs, through "
            "which videos enter: install transformers 5.18 or newer; if a library such as Liger "
            "replaced the forward of the class, let it replace that of the wrapped model instead"
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def stock_inputs(call: Call) -> tuple[dict[str, Any], Prepared]:
    """Compress the videos of a call, and return the inputs of a stock ``forward``.

    It is not compiled: the number of tokens depends on the video.
    """
    prepared = prepare(call)
    warn_beyond_context(call, prepared.inputs["attention_mask"], prepared.offsets)
    encoded = packed(call.model, call.adapter, prepared.inputs["mm_encoder_outputs"])
    images = call.adapter.encode_images(call.model, prepared.inputs)
    if images is not None:
        encoded["image"] = images
    return {**prepared.inputs, "mm_encoder_outputs": encoded}, prepared


def note_shortened(cache: Any, prepared: Prepared) -> None:
    """Mark the cache of a ``forward`` as one of a shortened prompt."""
    mark_shortened(cache, None)
    note_offsets(cache, prepared.offsets)


def restore_hidden_states(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Map the hidden states of a compressed call of the inner model to the caller's positions."""
    encoded = kwargs.get("mm_encoder_outputs")
    if not isinstance(encoded, _Encoded):
        return output
    index = encoded.prepared.caller_index
    note_shortened(returned_cache(output), encoded.prepared)
    output = with_encoder_outputs(module, encoded.adapter, output, encoded, encoded.prepared)
    if isinstance(output, tuple):
        return (at_positions(output[0], index), *output[1:])
    output["last_hidden_state"] = at_positions(output.last_hidden_state, index)
    if getattr(output, "hidden_states", None) is not None:
        output["hidden_states"] = tuple(at_positions(h, index) for h in output.hidden_states)
    return output


def with_encoder_outputs(
    model: Any, adapter: VideoAdapter, output: Any, encoded: Mapping[str, Any], prepared: Prepared
) -> Any:
    """Return the result of a stock ``forward`` with the encoder's outputs in the stock form.

    Args:
        output: A mapping or a tuple that contains the packed features of ``encoded``.
        encoded: The argument ``mm_encoder_outputs`` of ``forward``.
    """
    features = encoded[adapter.modality]

    def is_packed(value: Any) -> bool:
        if not isinstance(value, tuple):
            return value is features
        parts = features.to_tuple()
        return len(value) == len(parts) and all(map(operator.is_, value, parts))

    stock_form = functools.partial(adapter.encoder_outputs, model, prepared.encoded)
    if isinstance(output, tuple):
        return tuple(stock_form().to_tuple() if is_packed(item) else item for item in output)
    for name in [name for name, value in output.items() if is_packed(value)]:
        output[name] = stock_form()
    return output


def at_positions(values: Tensor, index: Tensor) -> Tensor:
    """Map values ``[B, L', ...]`` of a shortened prompt to the caller's positions.

    Args:
        index: ``[B, L]`` int64, see `vtc.pipeline.rows.caller_index`.

    Returns:
        ``[B, L, ...]``.
    """
    rows = torch.arange(len(index), device=values.device)[:, None]
    return values[rows, index.to(values.device)]
