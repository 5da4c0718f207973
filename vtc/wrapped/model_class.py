"""The class of a wrapped model: a subclass of the stock class that compresses videos first."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.pipeline.call import Call
from vtc.pipeline.kv_cache import (
    cached_length,
    given_cache,
    note_offsets,
    returned_cache,
)
from vtc.pipeline.locate import has_video
from vtc.pipeline.prepare import OUR_INPUTS, packed
from vtc.wrapped.access import is_enabled, own_toolkit, while_disabled
from vtc.wrapped.callers_view import CallersView
from vtc.wrapped.generation import generate_compressed
from vtc.wrapped.guard import check_call
from vtc.wrapped.inner_model import (
    InnerModelHook,
    at_positions,
    note_shortened,
    require_features,
    stock_inputs,
    with_encoder_outputs,
)
from vtc.wrapped.running import generating, is_generating, running_generation
from vtc.wrapped.saving import save_wrapped

if TYPE_CHECKING:
    from vtc.pipeline.toolkit import Toolkit


@functools.cache
def wrapped_class(base: Any) -> Any:
    """Return the subclass of a stock class that compresses videos.

    It keeps the name of the stock class, which output capture and ``architectures`` in config.json
    depend on. An object without a toolkit behaves like one of the stock class.
    """
    forward_names = list(inspect.signature(base.forward).parameters)[1:]
    generate_names = list(inspect.signature(base.generate).parameters)[1:]
    saving_names = list(inspect.signature(base.save_pretrained).parameters)[2:]

    class Wrapped(base):  # type: ignore[misc]
        vtc_stock_class = base
        # vtc.from_pretrained loads the toolkit's tensors.
        _keys_to_ignore_on_load_unexpected = [
            *(getattr(base, "_keys_to_ignore_on_load_unexpected", None) or []),
            r"^vtc\.",
        ]

        @functools.wraps(base.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            toolkit = own_toolkit(self)
            if toolkit is None:
                return base.forward(self, *args, **kwargs)
            inputs = _by_name("forward", forward_names, args, kwargs)
            if is_generating(self):
                return base.forward(self, **_packed_inputs(self, toolkit, inputs))
            with _counted(toolkit):
                return _forward(self, base.forward, toolkit, inputs)

        @functools.wraps(base.generate)
        @torch.no_grad()
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            toolkit = own_toolkit(self)
            if toolkit is None or is_generating(self):
                return base.generate(self, *args, **kwargs)
            inputs = _by_name("generate", generate_names, args, kwargs)
            if inputs.get("inputs") is not None:
                if inputs.get("input_ids") is not None:
                    raise ValueError("expected either inputs or input_ids, got both")
                inputs["input_ids"] = inputs.pop("inputs")
            with _counted(toolkit):
                return _generate(self, base.generate, toolkit, inputs)

        @functools.wraps(base.save_pretrained)
        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            if own_toolkit(self) is None:
                return base.save_pretrained(self, save_directory, *args, **kwargs)
            settings = _by_name("save_pretrained", saving_names, args, kwargs)
            return save_wrapped(self, base.save_pretrained, save_directory, **settings)

        def _prepare_position_ids_for_generation(
            self, inputs_tensor: Any, model_kwargs: Any
        ) -> Any:
            stock_positions = super()._prepare_position_ids_for_generation
            toolkit = own_toolkit(self)
            if toolkit is None or toolkit.adapter.position_state is None:
                return stock_positions(inputs_tensor, model_kwargs)
            return _stock_positions(self, toolkit, stock_positions, inputs_tensor, model_kwargs)

        def _merge_criteria_processor_list(self, default_list: Any, custom_list: Any) -> Any:
            # A custom processor replaces the default of its type, also inside `CallersView`.
            custom = {type(getattr(item, "inner", item)) for item in custom_list}
            kept = type(default_list)(item for item in default_list if type(item) not in custom)
            return super()._merge_criteria_processor_list(kept, custom_list)

        def __reduce_ex__(self, protocol: Any) -> Any:
            # The class is created at runtime, so pickle and deepcopy create it again.
            return _remake, (base,), self.__dict__

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            toolkit = own_toolkit(self)
            if toolkit is not None:
                toolkit.attach(self)
            for hook in self.base_model._forward_pre_hooks.values():
                if isinstance(hook, InnerModelHook):
                    hook.watch(self)

    wrapped_forward: Any = Wrapped.forward
    wrapped_forward.__signature__ = _with_our_inputs(base.forward)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Wrapped, name, getattr(base, name))
    return Wrapped


def _forward(
    model: Any, stock_forward: Callable[..., Any], toolkit: Toolkit, inputs: dict[str, Any]
) -> Any:
    """Run the stock ``forward`` on compressed videos."""
    check_call(model, toolkit, inputs, start=0)
    cache = given_cache(inputs)
    if not (is_enabled(model) and has_video(toolkit.adapter, inputs)):
        if cache is None:
            toolkit.note_report(None)  # clear the previous call's report
        return _forward_without_video(
            model, stock_forward, toolkit, _packed_inputs(model, toolkit, inputs)
        )
    if not torch.compiler.is_compiling():
        require_features(stock_forward)
    toolkit.note_report(None)  # clear the previous call's report
    shortened, prepared = stock_inputs(Call(model, toolkit, inputs))
    toolkit.note_report(prepared.report)
    output = stock_forward(model, **shortened)
    encoded = shortened["mm_encoder_outputs"]
    output = with_encoder_outputs(model, toolkit.adapter, output, encoded, prepared)
    note_shortened(returned_cache(output), prepared)
    if _compares_with_labels(model, inputs) and not isinstance(output, tuple):
        output["logits"] = at_positions(output.logits, prepared.caller_index)
    return output


def _compares_with_labels(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Return whether the caller will compare the logits with its labels.

    The Trainer does not pass the labels on if it smooths labels or has a ``compute_loss_func``,
    and passes logits and labels to ``compute_metrics`` in an evaluation.
    """
    if inputs.get("logits_to_keep"):
        return False
    if inputs.get("labels") is None:
        return model.training or inputs.get("num_items_in_batch") is not None
    return not model.training


def _forward_without_video(
    model: Any, stock_forward: Callable[..., Any], toolkit: Toolkit, inputs: dict[str, Any]
) -> Any:
    """Run the stock ``forward``; store on the cache the offsets that families keep on the model."""
    adapter, cache, ids = toolkit.adapter, given_cache(inputs), inputs.get("input_ids")
    if adapter.position_state is None or ids is None:
        return stock_forward(model, **inputs)
    cached, offsets = cached_length(cache), getattr(cache, "vtc_offsets", None)
    if cached and offsets is not None and inputs.get("position_ids") is None:
        inputs["position_ids"] = adapter.positions_after(inputs, cached, offsets)
    if cached or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return stock_forward(model, **inputs)
    with toolkit.gate.stock_state:
        _write_state(model, adapter.position_state, None)  # clear another call's offsets
        output = stock_forward(model, **inputs)
        offsets = _read_state(model, adapter.position_state)
    note_offsets(
        returned_cache(output), torch.zeros_like(ids[:, :1]) if offsets is None else offsets
    )
    return output


def _generate(
    model: Any, stock_generate: Callable[..., Any], toolkit: Toolkit, inputs: dict[str, Any]
) -> Any:
    """Run the stock ``generate`` on compressed videos."""
    start = cached_length(given_cache(inputs))
    check_call(model, toolkit, inputs, start)
    toolkit.note_report(None)  # clear the previous call's report
    enabled = is_enabled(model)
    # Fix enabled/disabled for the whole call, in every thread.
    with nullcontext() if enabled else while_disabled(model), generating(model) as generation:
        if enabled and has_video(toolkit.adapter, inputs):
            require_features(type(model).vtc_stock_class.forward)
            return generate_compressed(model, stock_generate, toolkit, inputs)
        arguments, ids = _without_ours(inputs), inputs.get("input_ids")
        if isinstance(ids, Tensor):  # so that callbacks may call the model themselves
            arguments = CallersView(ids, ids.shape[1]).of_arguments(arguments)
        result = stock_generate(model, **arguments)
    for cache in (given_cache(inputs), returned_cache(result)):
        note_offsets(cache, generation.offsets)
    return result


def _stock_positions(
    model: Any,
    toolkit: Toolkit,
    stock_positions: Callable[..., Any],
    ids: Tensor,
    kwargs: dict[str, Any],
) -> Any:
    """Compute the positions of a stock ``generate`` with the offsets of its own cache.

    transformers keeps offsets on the model, where a call in another thread may overwrite them.
    """
    name = toolkit.adapter.position_state or ""
    offsets = getattr(given_cache(kwargs), "vtc_offsets", None)
    with toolkit.gate.stock_state:
        if offsets is not None:
            _write_state(model, name, offsets)
        positions = stock_positions(ids, kwargs)
        generation = running_generation()
        if generation is not None:
            generation.offsets = _read_state(model, name)
    return positions


def _read_state(model: Any, name: str) -> Tensor | None:
    state: Tensor | None = functools.reduce(getattr, name.split("."), model)
    return state


def _write_state(model: Any, name: str, value: Tensor | None) -> None:
    *path, leaf = name.split(".")
    setattr(functools.reduce(getattr, path, model), leaf, value)


def _counted(toolkit: Toolkit) -> Any:
    """Count a call in the ``with`` block, so that the toolkit cannot change meanwhile."""
    return nullcontext() if torch.compiler.is_compiling() else toolkit.gate.call()


def _packed_inputs(model: Any, toolkit: Toolkit, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of the stock ``forward``; videos that ``generate`` encoded are packed."""
    inputs = _without_ours(inputs)
    encoded = inputs.get("mm_encoder_outputs")
    if encoded is not None:
        inputs["mm_encoder_outputs"] = packed(model, toolkit.adapter, encoded)
    return inputs


def _by_name(
    function: str, names: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    if len(args) > len(names):
        raise TypeError(f"{function} takes at most {len(names)} positional arguments")
    positional = dict(zip(names, args, strict=False))
    if twice := positional.keys() & kwargs:
        names_twice = ", ".join(sorted(twice))
        raise TypeError(f"{function} got {names_twice} twice, by position and by name")
    return {**positional, **kwargs}


def _with_our_inputs(forward: Callable[..., Any]) -> inspect.Signature:
    """Return the stock signature with our inputs, which the Trainer would otherwise drop."""
    signature = inspect.signature(forward)
    parameters = list(signature.parameters.values())
    keyword = inspect.Parameter.KEYWORD_ONLY
    ours = [inspect.Parameter(name, keyword, default=None) for name in OUR_INPUTS]
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    named = parameters[: len(parameters) - len(rest)]
    return signature.replace(parameters=[*named, *ours, *rest])


def _without_ours(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in OUR_INPUTS}


def _remake(base: Any) -> Any:
    wrapped = wrapped_class(base)
    return wrapped.__new__(wrapped)
