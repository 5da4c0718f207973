"""``wrap`` and ``unwrap``: splice the toolkit into a stock model, and remove it again.

The model stays the same object. Its class becomes a subclass, made at runtime, whose ``forward``
and ``generate`` compress the videos of a call and then run the stock code on the result.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from vtc.encoders.lazy import LazyEncoder
from vtc.interfaces.frame_selector import FrameSelector
from vtc.interfaces.token_budget import TokenBudget
from vtc.interfaces.token_merger import TokenMerger
from vtc.pipeline.modules import input_device
from vtc.pipeline.saliency import saliency_module_of
from vtc.pipeline.toolkit import Toolkit
from vtc.plugins import registry
from vtc.wrapped.access import is_wrapped, stock_model, toolkit_of
from vtc.wrapped.inner_model import InnerModelHook, require_features, restore_hidden_states
from vtc.wrapped.model_class import wrapped_class

M = TypeVar("M")


def wrap(
    model: M,
    selector: str | Mapping[str, Any] | FrameSelector = "dks",
    merger: str | Mapping[str, Any] | TokenMerger = "dfm",
    *,
    budget: int | str | Mapping[str, Any] | TokenBudget | None = None,
    processor: Any = None,
    encoder: Any = "open_clip:ViT-B-32/openai",
) -> M:
    """Make a Hugging Face vision-language model read videos with few tokens.

    Args:
        model: A stock model of a supported family; it is changed in place.
        selector: Chooses the keyframes, which keep all their tokens: a name,
            ``vtc.selector(name, **options)``, a mapping ``{"name": ..., option: ...}`` or an
            instance.
        merger: Merges each non-keyframe; in the same forms.
        budget: The maximum number of visual tokens of a video, keyframes included, or ``"auto"``
            to fill the model's context. Non-keyframes share them evenly;
            ``vtc.budget(name, max_tokens=..., **options)`` shares them differently. None: no
            limit.
        processor: The model's processor. Needed if videos are passed through it, to read the
            question and the frames; ``vtc.ask`` and ``vtc.prepare_inputs`` take their own.
        encoder: The frame encoder of selectors that do not name one: a name, a folder or an
            object, see ``vtc.encoders.lazy.load_encoder``. Loaded on first use;
            ``vtc.encoders.lazy.LazyEncoder`` takes options.

    Returns:
        The same object, still an instance of its Hugging Face class.

    Raises:
        ValueError: The family, a part or an option is unknown; the model is wrapped already.
        TypeError: Something is of the wrong kind.

    >>> model, processor = vtc.testing.tiny("llava_onevision")  # a stock model, random weights
    >>> encoder = vtc.testing.tiny_encoder()  # leave it out for CLIP ViT-B/32
    >>> model = vtc.wrap(model, "dks", "dfm", processor=processor, encoder=encoder)
    >>> vtc.is_wrapped(model), type(model).__name__
    (True, 'LlavaOnevisionForConditionalGeneration')
    """
    toolkit = splice(stock_model(model), selector, merger, processor, encoder, budget)
    for part in (toolkit.selector, toolkit.merger, toolkit.budget):
        if part is not None and not registry.is_registered(part):
            warnings.warn(
                f"{type(part).__name__} is not registered by a plug-in, so the wrapped model "
                "cannot be saved, nor a Trainer's checkpoint; register it with vtc.hookimpl",
                stacklevel=2,
            )
    warn_of_untrained(toolkit, stacklevel=3)
    return model


def warn_of_untrained(toolkit: Toolkit, stacklevel: int) -> None:
    """Warn about each untrained component."""
    for warning in toolkit.untrained_warnings():
        warnings.warn(warning, stacklevel=stacklevel)


def splice(
    model: Any, selector: Any, merger: Any, processor: Any, encoder: Any, budget: Any = None
) -> Toolkit:
    """Check everything, then change the model: ``wrap`` without its warnings.

    Returns:
        The toolkit, now ``model.vtc``.
    """
    if is_wrapped(model):
        raise ValueError(
            "the model is wrapped already; call vtc.unwrap(model) first to change its parts"
        )
    _check_forward(model)
    adapter = registry.adapter_for(model.config.model_type)
    selector = registry.build_part("selector", selector)
    merger = registry.build_part("merger", merger)
    if getattr(merger, "uses_saliency", False):
        saliency_module_of(adapter, model)  # refuses towers without one
    lazy = encoder if isinstance(encoder, LazyEncoder) else LazyEncoder(encoder)
    if not hasattr(model, "generate"):
        raise ValueError(
            f"{type(model).__name__} has no generate; vtc needs a model with a language head "
            "(...ForConditionalGeneration)"
        )
    require_features(model.forward)
    toolkit = Toolkit(selector, merger, adapter, lazy, processor)
    toolkit.budget = registry.build_budget(budget)
    toolkit.encoders_on(input_device(model))
    toolkit.build_merger(model)
    toolkit.train(model.training)
    base: Any = getattr(type(model), "vtc_stock_class", type(model))
    wrapped = wrapped_class(base)

    model.vtc = toolkit
    toolkit.attach(model)
    _remove_own_forward(model)
    model.__class__ = wrapped
    _rebind_old_forward(model)
    inner = model.base_model
    model.vtc_hooks = (
        inner.register_forward_pre_hook(InnerModelHook(model), with_kwargs=True),
        inner.register_forward_hook(restore_hidden_states, with_kwargs=True),
    )
    return toolkit


def unwrap(model: M) -> M:
    """Restore the stock class, weights and outputs of a wrapped model.

    The toolkit is removed with its merger. To keep the merger's parameters, get
    ``model.vtc.merger`` first.

    Raises:
        ValueError: The model is not wrapped, or its ``forward`` was replaced after wrapping.
        RuntimeError: A call is running.
    """
    target: Any = stock_model(model)
    toolkit = toolkit_of(target)
    _check_forward(target)
    with toolkit.gate.change("unwrap the model"):
        for hook in target.vtc_hooks:
            hook.remove()
        _remove_own_forward(target)
        target.__class__ = type(target).vtc_stock_class
        del target.vtc, target.vtc_hooks
        _rebind_old_forward(target)
    return model


def _check_forward(model: Any) -> None:
    """Raise if a model's forward was replaced on the object, where it hides that of its class."""
    is_replaced = "forward" in vars(model) and not _has_own_forward(model)
    if is_replaced and not hasattr(model, "_hf_hook"):
        raise ValueError(
            f"the forward of this {type(model).__name__} was replaced on the object, as "
            "accelerate does for mixed precision; remove it first: "
            "model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)"
        )


def _has_own_forward(model: Any) -> bool:
    """Return whether the forward on the object is that of its class.

    ``accelerator.unwrap_model`` sets it, without the decorators of the class.
    """
    function = getattr(vars(model).get("forward"), "__func__", None)
    return function in (type(model).forward, inspect.unwrap(type(model).forward))


def _remove_own_forward(model: Any) -> None:
    """Delete a forward on the object, so that the model uses the forward of its class."""
    if _has_own_forward(model):
        del model.forward


def _rebind_old_forward(model: Any) -> None:
    """Make accelerate's hook on the model call the forward of its new class."""
    if hasattr(model, "_old_forward"):
        model._old_forward = functools.partial(type(model).forward, model)
