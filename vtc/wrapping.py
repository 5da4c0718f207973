"""``wrap`` and ``unwrap``: splice the toolkit into a stock model, and take it out again.

The model stays the same object. Its class becomes a subclass, made on the spot, whose ``forward``
and ``generate`` compress the videos of a call and then run the stock code on the result.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from vtc import registry
from vtc.frame_encoder import LazyEncoder
from vtc.frame_selector import FrameSelector
from vtc.generation import generate_compressed
from vtc.preparing import OUR_INPUTS, has_video, prepare
from vtc.token_merger import TokenMerger
from vtc.toolkit import Toolkit, input_device, plain

if TYPE_CHECKING:
    from vtc.report import Report

M = TypeVar("M")


def wrap(
    model: M,
    selector: str | Mapping[str, Any] | FrameSelector = "dks",
    merger: str | Mapping[str, Any] | TokenMerger = "dfm",
    *,
    processor: Any = None,
    encoder: Any = "open_clip:ViT-B-32/openai",
) -> M:
    """Make a Hugging Face vision-language model read videos with few tokens.

    Args:
        model: A stock model of a supported family; it is changed in place.
        selector: Which frames keep all their tokens: a name, ``vtc.selector(name, **options)``,
            a mapping ``{"name": ..., option: ...}`` or an instance.
        merger: What each other frame becomes; given likewise.
        processor: The model's own processor. Needed when videos come through it, to read the
            question and the frames; ``vtc.ask`` and ``vtc.prepare_inputs`` bring their own.
        encoder: The frame encoder that selectors look through: a name, a folder or an object,
            see ``vtc.frame_encoder.load_encoder``. Loaded at its first use.

    Returns:
        The same object, still an instance of its Hugging Face class.

    Raises:
        ValueError: The family, a part or an option is unknown; the model is wrapped already.
        TypeError: Something is of the wrong kind.
    """
    toolkit = splice(_stock_model(model), selector, merger, processor, encoder)
    if toolkit.merger_is_new and toolkit.merger.needs_training:
        warnings.warn(
            f"merger {toolkit.name_of(toolkit.merger)!r} has parameters that nobody has trained: "
            "its tokens mean nothing until they are",
            stacklevel=2,
        )
    return model


def splice(model: Any, selector: Any, merger: Any, processor: Any, encoder: Any) -> Toolkit:
    """Check everything, then change the model: ``wrap`` without its warning.

    Returns:
        The toolkit, now ``model.vtc``.
    """
    if is_wrapped(model):
        raise ValueError(
            "the model is wrapped already; call vtc.unwrap(model) first to change its parts"
        )
    adapter = registry.adapter_for(model.config.model_type)
    chosen_selector = registry.build_part("selector", selector)
    chosen_merger = registry.build_part("merger", merger)
    lazy = LazyEncoder(encoder)
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{type(model).__name__}.forward takes no mm_encoder_outputs, through which videos "
            "enter; vtc needs a model with a language head, of transformers 5.18 or newer"
        )
    toolkit = Toolkit(chosen_selector, chosen_merger, adapter, lazy, processor)
    lazy.to(input_device(model))
    toolkit.build_merger(model)
    toolkit.train(model.training)

    stock: Any = type(model)
    model.vtc = toolkit
    model.__class__ = wrapped_class(stock)
    _rebind_old_forward(model)
    toolkit.guard = model.base_model.register_forward_pre_hook(
        RawVideoGuard(model), with_kwargs=True
    )
    return toolkit


def unwrap(model: M) -> M:
    """Give a wrapped model its stock class, weights and outputs back.

    The merger leaves with the toolkit; ``model.vtc.merger`` taken before keeps its parameters.

    Raises:
        ValueError: The model is not wrapped.
    """
    target = _stock_model(model)
    toolkit = toolkit_of(target)
    if toolkit.guard is not None:
        toolkit.guard.remove()
    target.__class__ = stock_class(type(target))
    del target.vtc
    _rebind_old_forward(target)
    return model


def is_wrapped(model: Any) -> bool:
    """Whether ``vtc.wrap`` was applied to a model, or to the model inside a peft model."""
    return hasattr(type(_stock_model(model)), "vtc_stock_class")


@contextmanager
def disabled(model: Any) -> Iterator[None]:
    """Run a wrapped model as the stock model for a while: ``with vtc.disabled(model): ...``"""
    toolkit = toolkit_of(_stock_model(model))
    before, toolkit.enabled = toolkit.enabled, False
    try:
        yield
    finally:
        toolkit.enabled = before


def last_report(model: Any) -> Report:
    """What the last call of a wrapped model that brought a video did.

    Raises:
        ValueError: The model is not wrapped, or has not read a video yet.
    """
    report: Report | None = toolkit_of(_stock_model(model)).report
    if report is None:
        raise ValueError("the model has not read a video yet, so there is no report")
    return report


def toolkit_of(model: Any) -> Toolkit:
    """The module that ``wrap`` added; looked up at each use, as peft may replace it.

    Raises:
        ValueError: The model is not wrapped.
    """
    target = _stock_model(model)
    if not is_wrapped(target):
        raise ValueError(f"this {type(target).__name__} is not wrapped; call vtc.wrap(model) first")
    toolkit: Toolkit = plain(target.vtc)
    return toolkit


@functools.cache
def wrapped_class(base: Any) -> Any:
    """The subclass of a stock class that compresses videos."""

    class Wrapped(base):  # type: ignore[misc]
        vtc_stock_class = base
        # Its tensors are read by vtc.from_pretrained.
        _keys_to_ignore_on_load_unexpected = [
            *(getattr(base, "_keys_to_ignore_on_load_unexpected", None) or []),
            r"^vtc\.",
        ]

        @functools.wraps(base.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            inputs = _by_name(base.forward, args, kwargs)
            toolkit = toolkit_of(self)
            if not _compresses(toolkit, inputs):
                return base.forward(self, **_without_ours(inputs))
            prepared = prepare(self, toolkit, inputs)
            images = toolkit.adapter.encode_images(self, prepared.inputs)
            if images is not None:
                prepared.inputs["mm_encoder_outputs"]["image"] = images
            toolkit.report = prepared.report
            return base.forward(self, **prepared.inputs)

        @functools.wraps(base.generate)
        @torch.no_grad()
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            inputs = _by_name(base.generate, args, kwargs)
            toolkit = toolkit_of(self)
            with _generating(toolkit):
                if not _compresses(toolkit, inputs):
                    return base.generate(self, **_without_ours(inputs))
                return generate_compressed(self, base.generate, toolkit, inputs)

        @functools.wraps(base.save_pretrained)
        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            from vtc.checkpoint import save_wrapped

            return save_wrapped(self, base.save_pretrained, save_directory, *args, **kwargs)

        def __reduce_ex__(self, protocol: Any) -> Any:
            # The class is made on the spot, so pickle and deepcopy make it anew.
            return _remake, (base,), self.__dict__

    # Output capture and `architectures` in config.json go by the name of the class.
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Wrapped, name, getattr(base, name))
    return Wrapped


def stock_class(cls: type[Any]) -> type[Any]:
    """The Hugging Face class under a wrapped one."""
    stock: type[Any] = cls.vtc_stock_class
    return stock


class RawVideoGuard:
    """Raises when raw video reaches the inner model on a way that the toolkit does not see."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        toolkit = toolkit_of(self.model)
        for name in toolkit.adapter.video_inputs:
            if toolkit.enabled and kwargs.get(name) is not None:
                raise RuntimeError(
                    f"{name} reached {type(module).__name__} past the wrapped model, so nothing "
                    "was compressed; call the wrapped model's own forward or generate, or say "
                    "`with vtc.disabled(model):` if the bare model is meant"
                )


def _compresses(toolkit: Toolkit, inputs: Mapping[str, Any]) -> bool:
    """Whether a call is ours; raises where a video would silently stay as it is."""
    lazy = inputs.get("vtc_videos") is not None
    if not toolkit.enabled:
        if lazy:
            raise ValueError(
                "inputs of vtc.prepare_inputs need the toolkit, which vtc.disabled has switched "
                "off; make inputs with the stock processor instead"
            )
        return False
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")
    if encoded is not None and not toolkit.active:
        raise RuntimeError(
            "mm_encoder_outputs brings an encoded video into a wrapped model, so nothing was "
            "compressed; give the video itself, or say `with vtc.disabled(model):`"
        )
    return has_video(toolkit, inputs)


@contextmanager
def _generating(toolkit: Toolkit) -> Iterator[None]:
    before, toolkit.active = toolkit.active, True
    try:
        yield
    finally:
        toolkit.active = before


def _without_ours(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in OUR_INPUTS}


def _by_name(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = list(inspect.signature(function).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _stock_model(model: Any) -> Any:
    """The Hugging Face model inside a peft model, or the model itself."""
    inside = getattr(model, "get_base_model", None)  # of a peft model
    if inside is not None:
        return inside()
    if not hasattr(model, "config") or not isinstance(model, nn.Module):
        raise TypeError(f"a Hugging Face model is needed, got {type(model).__name__}")
    return model


def _rebind_old_forward(model: Any) -> None:
    """Let a hook of accelerate on the model itself call the forward of its new class."""
    if hasattr(model, "_old_forward"):
        model._old_forward = functools.partial(type(model).forward, model)


def _remake(base: Any) -> Any:
    wrapped = wrapped_class(base)
    return wrapped.__new__(wrapped)
