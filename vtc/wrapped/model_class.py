"""The class of a wrapped model: the stock class, made to compress the videos of a call first."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vtc.pipeline.kv_cache import cached_length, given_cache, mark_shortened, returned_cache
from vtc.pipeline.modules import active_module
from vtc.pipeline.prepare import OUR_INPUTS, has_video, packed, prepare
from vtc.wrapped.generation import generate_compressed

if TYPE_CHECKING:
    from vtc.pipeline.toolkit import Toolkit


_disabled: ContextVar[frozenset[int]] = ContextVar("vtc_disabled", default=frozenset())
"""The models, by `id`, whose videos stay as they are in this thread."""
_generating: ContextVar[bool] = ContextVar("vtc_generating", default=False)
"""True while a wrapped ``generate`` runs the stock one: encoded videos are then our own."""


@functools.cache
def wrapped_class(base: Any) -> Any:
    """The subclass of a stock class that compresses videos.

    Output capture and ``architectures`` in config.json go by the name of the class, so it is the
    stock one's.
    """
    forward_names = list(inspect.signature(base.forward).parameters)[1:]
    generate_names = list(inspect.signature(base.generate).parameters)[1:]

    class Wrapped(base):  # type: ignore[misc]
        vtc_stock_class = base
        # Its tensors are read by vtc.from_pretrained.
        _keys_to_ignore_on_load_unexpected = [
            *(getattr(base, "_keys_to_ignore_on_load_unexpected", None) or []),
            r"^vtc\.",
        ]

        @functools.wraps(base.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            inputs = _by_name("forward", forward_names, args, kwargs)
            toolkit = toolkit_of(self)
            with _counted(toolkit):
                if not _generating.get():
                    _check_call(self, toolkit, inputs, start=0)
                if not (is_enabled(self) and has_video(toolkit, inputs)):
                    if not _generating.get() and given_cache(inputs) is None:
                        toolkit.report = None  # an earlier call's would be taken for this one's
                    inputs = _without_ours(inputs)
                    if (encoded := inputs.get("mm_encoder_outputs")) is not None:  # by generate
                        inputs["mm_encoder_outputs"] = packed(self, toolkit, encoded)
                    return base.forward(self, **inputs)
                prepared = prepare(self, toolkit, inputs)
                encoded = packed(self, toolkit, prepared.inputs["mm_encoder_outputs"])
                images = toolkit.adapter.encode_images(self, prepared.inputs)
                if images is not None:
                    encoded["image"] = images
                toolkit.report = prepared.report
                output = base.forward(self, **{**prepared.inputs, "mm_encoder_outputs": encoded})
                mark_shortened(returned_cache(output), None)
                return output

        @functools.wraps(base.generate)
        @torch.no_grad()
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            inputs = _by_name("generate", generate_names, args, kwargs)
            if inputs.get("inputs") is not None:
                inputs["input_ids"] = inputs.pop("inputs")
            toolkit = toolkit_of(self)
            with _counted(toolkit):
                if not _generating.get():
                    start = cached_length(given_cache(inputs))
                    _check_call(self, toolkit, inputs, start)
                    toolkit.report = None  # an earlier call's would be taken for this one's
                with _while_generating():
                    if is_enabled(self) and has_video(toolkit, inputs):
                        return generate_compressed(self, base.generate, toolkit, inputs)
                    return base.generate(self, **_without_ours(inputs))

        @functools.wraps(base.save_pretrained)
        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            from vtc.wrapped.saving import save_wrapped

            return save_wrapped(self, base.save_pretrained, save_directory, *args, **kwargs)

        def __reduce_ex__(self, protocol: Any) -> Any:
            # The class is made on the spot, so pickle and deepcopy make it anew.
            return _remake, (base,), self.__dict__

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            if isinstance(getattr(self, "vtc", None), nn.Module):
                toolkit_of(self).attach(self)
            for hook in self.base_model._forward_pre_hooks.values():
                if isinstance(hook, RawVideoGuard):
                    hook.watch(self)

    wrapped_forward: Any = Wrapped.forward
    wrapped_forward.__signature__ = _with_our_inputs(base.forward)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Wrapped, name, getattr(base, name))
    return Wrapped


def _counted(toolkit: Toolkit) -> AbstractContextManager[None]:
    """Count a call, so that the toolkit is not changed meanwhile."""
    return nullcontext() if torch.compiler.is_compiling() else toolkit.gate.call()


def is_enabled(model: Any) -> bool:
    """False inside ``vtc.disabled``, in the thread that said so."""
    return id(model) not in _disabled.get()


@contextmanager
def while_disabled(model: Any) -> Iterator[None]:
    """A context in which the videos of a model stay as they are."""
    token = _disabled.set(_disabled.get() | {id(stock_model(model))})
    try:
        yield
    finally:
        _disabled.reset(token)


def toolkit_of(model: Any) -> Toolkit:
    """The module that ``wrap`` added; looked up at each use, as peft may replace it.

    Raises:
        ValueError: The model is not wrapped.
    """
    target = stock_model(model)
    if not hasattr(type(target), "vtc_stock_class"):
        raise ValueError(f"this {type(target).__name__} is not wrapped; call vtc.wrap(model) first")
    toolkit: Toolkit = active_module(target.vtc)
    return toolkit


def stock_model(model: Any) -> Any:
    """The Hugging Face model inside a peft model, or the model itself."""
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    inside = getattr(model, "get_base_model", None)  # of a peft model
    if inside is not None:
        return inside()
    if not hasattr(model, "config") or not isinstance(model, nn.Module):
        raise TypeError(f"a Hugging Face model is needed, got {type(model).__name__}")
    return model


class RawVideoGuard:
    """Raises when raw video reaches the inner model on a way that the toolkit does not see."""

    # Until `watch`: an inner model that is copied alone has no guard.
    _model: Callable[[], Any] = staticmethod(lambda: None)

    def __init__(self, model: Any) -> None:
        self.watch(model)

    def watch(self, model: Any) -> None:
        """Guard this model from now on; weakly, so that it is freed as a stock model is."""
        self._model = weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a copied model sets its own guard anew

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        model = self._model()
        if model is None or not is_enabled(model):
            return
        toolkit = toolkit_of(model)
        if toolkit.adapter.modality == "image":
            return  # frames look like the still images that are welcome here
        names = list(inspect.signature(type(module).forward).parameters)[1:] if args else []
        given = dict(zip(names, args, strict=False)) | kwargs
        for name in toolkit.adapter.video_inputs:
            if given.get(name) is not None:
                raise RuntimeError(
                    f"{name} reached {type(module).__name__} past the wrapped model, so nothing "
                    "was compressed; call the wrapped model's own forward or generate, or say "
                    "`with vtc.disabled(model):` if the bare model is meant"
                )


def _check_call(model: Any, toolkit: Toolkit, inputs: Mapping[str, Any], start: int) -> None:
    """Refuse calls in which a video would silently stay as it is, or be read from raw ids.

    Args:
        start: The positions of ``input_ids`` that a cache holds already.
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
            "compressed; give the video itself, or say `with vtc.disabled(model):`"
        )
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if not isinstance(ids, Tensor):
        return
    cache = given_cache(inputs)
    cached = cached_length(cache)
    if torch.compiler.is_compiling():
        return
    _check_mask(cache, mask, cached, ids.shape[1] + (cached if start == 0 else 0))
    if cached and start == 0 and ids.shape[1] == 1:
        return  # a step of a loop of the caller's own: one new token is no video
    if _goes_on_from(getattr(cache, "vtc_restored_prompt", None), ids):
        raise ValueError(
            "input_ids goes on from a prompt that was restored, but the cache holds the shortened "
            "one: the earlier turn's generate needs vtc_restore_prompt=False, and its result is "
            "what the next turn goes on from"
        )
    if not has_video(toolkit, inputs) and inputs.get("inputs_embeds") is None:
        if toolkit.adapter.modality == "image":
            _warn_of_stills(model, toolkit, inputs)
        elif bool((ids[:, start:] == toolkit.adapter.video_token_id(model)).any()):
            raise ValueError(
                "input_ids has video placeholders, but no video came with them; give the video "
                "with them, as the processor or vtc.prepare_inputs does"
            )


def _warn_of_stills(model: Any, toolkit: Toolkit, inputs: Mapping[str, Any]) -> None:
    """Where frames enter as still images, nobody but the caller knows that they are frames."""
    if inputs.get("vtc_frames") is None and toolkit.adapter.could_be_frames(model, inputs):
        warnings.warn(
            "several pictures came without vtc_frames, so they are taken for still images and "
            "nothing was compressed; if they are the frames of a video, say how many with "
            "vtc_frames=N (or a list, a number for each row), and vtc_frames=0 if they are not",
            stacklevel=_depth_of_caller(),
        )


def _depth_of_caller() -> int:
    """The ``stacklevel`` of the first caller outside of the libraries between it and us."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            break
        depth, frame = depth + 1, frame.f_back
    return depth


_LIBRARIES = ("vtc", "torch", "transformers", "peft", "accelerate")


def _check_mask(cache: Any, mask: Any, cached: int, length: int) -> None:
    shortened = getattr(cache, "vtc_is_shortened", False)
    if shortened and isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] > length:
        raise ValueError(
            f"attention_mask has {mask.shape[1]} columns for {length} tokens, {cached} of them in "
            "the cache: the cache is of the shortened prompt, so take its mask "
            "from the shortened prompt as well (vtc_restore_prompt=False), or leave it out"
        )


@contextmanager
def _while_generating() -> Iterator[None]:
    token = _generating.set(True)
    try:
        yield
    finally:
        _generating.reset(token)


def _goes_on_from(prompt: Tensor | None, ids: Tensor) -> bool:
    """Whether some row begins as some row of a prompt does; a cache may have been cut to rows."""
    if prompt is None or prompt.shape[1] > ids.shape[1]:
        return False
    begins = ids[:, None, : prompt.shape[1]] == prompt.to(ids.device)
    return bool(begins.all(-1).any())


def _by_name(
    function: str, names: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    if len(args) > len(names):
        raise TypeError(f"{function} takes at most {len(names)} positional arguments")
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _with_our_inputs(forward: Callable[..., Any]) -> inspect.Signature:
    """The stock signature and our inputs, which the Trainer would else take for unused columns."""
    signature = inspect.signature(forward)
    known = list(signature.parameters.values())
    keyword = inspect.Parameter.KEYWORD_ONLY
    ours = [inspect.Parameter(name, keyword, default=None) for name in OUR_INPUTS]
    open_end = [p for p in known if p.kind is inspect.Parameter.VAR_KEYWORD]
    return signature.replace(parameters=[*known[: len(known) - len(open_end)], *ours, *open_end])


def _without_ours(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in OUR_INPUTS}


def _remake(base: Any) -> Any:
    wrapped = wrapped_class(base)
    return wrapped.__new__(wrapped)
