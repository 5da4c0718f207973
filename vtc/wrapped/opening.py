"""Open a model by its name: a folder, a repository on the hub, or a plug-in's model."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from vtc.encoders.device import pick_device
from vtc.plugins import registry
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.loading import find_encoder, from_pretrained, is_saved_by_vtc, saved_config
from vtc.wrapped.stock import check_model_name, load_weights, open_config, open_processor
from vtc.wrapped.wrapping import unwrap, wrap

if TYPE_CHECKING:
    import torch

    from vtc.pipeline.toolkit import Toolkit

DEFAULT_ENCODER = "open_clip:ViT-B-32/openai"


class StockModel(NamedTuple):
    """A model that is not wrapped.

    Attributes:
        model: The model, in evaluation mode.
        processor: The model's processor.
        toolkit: The toolkit that was saved with the model; None for a stock model.
    """

    model: Any
    processor: Any
    toolkit: Toolkit | None


def open_model(
    name: str | os.PathLike[str],
    *,
    selector: Any = None,
    merger: Any = None,
    budget: Any = None,
    encoder: Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    seed: int = 0,
    **options: Any,
) -> tuple[Any, Any]:
    """Open a model with its processor, wrapped.

    Args:
        name: A folder with a stock model or one that vtc saved; ``OWNER/NAME`` on the hub;
            ``shipped``, the trained tiny model that comes with vtc; ``tiny:FAMILY``, a tiny model
            with random weights; or another name that a plug-in registers.
        selector, merger, budget, encoder: As ``vtc.wrap`` takes them; None for the ones saved with
            the model, or else the defaults of ``vtc.wrap``.
        device: The device of the model; ``"auto"`` is a GPU if there is one.
        dtype: The dtype of the weights, or its name; ``"auto"`` keeps the saved dtype.
        trust_remote_code: Run Python code that is stored with the weights.
        seed: The seed of random weights.
        **options: Passed to the stock ``from_pretrained`` (``attn_implementation``, ...). With
            ``device_map`` or ``quantization_config`` the model is not moved to ``device``.

    Returns:
        The wrapped model in evaluation mode, and its processor.

    Raises:
        ValueError: The name has none of these forms, a part or the family is unknown, or the
            weights are incomplete.
        OSError: The model cannot be read.

    >>> model, processor = open_model("shipped", selector=vtc.selector("dks", keyframes=8))
    """
    placed = sorted(options.keys() & {"device_map", "quantization_config"})
    if placed and device != "auto":
        raise ValueError(f"expected device='auto' with {placed[0]}, got {str(device)!r}")
    dtype, device = read_dtype(dtype), pick_device(device)
    # A wrong part or family is reported before the weights are read.
    for kind, part in (("selector", selector), ("merger", merger)):
        if part is not None:
            registry.build_part(kind, part)
    registry.build_budget(budget)
    place, trust = find_model(name), {"trust_remote_code": trust_remote_code}
    if place is None and placed:
        raise ValueError(f"{placed[0]} needs weights in files, but {name} has none")
    if place is not None:
        registry.adapter_for(open_config(place, **trust).model_type)
    if place is not None and is_saved_by_vtc(place):
        processor = open_processor(place, **trust)
        model = from_pretrained(
            place,
            selector=selector,
            merger=merger,
            budget=budget,
            processor=processor,
            encoder=encoder,
            dtype=dtype,
            **trust,
            **options,
        )
        return model.eval() if placed else model.eval().to(device), processor
    model, processor, _ = open_stock(name, dtype=dtype, seed=seed, **trust, **options)
    defaults = saved_parts(name)
    parts = (selector or defaults["selector"], merger or defaults["merger"])
    encoder = encoder or defaults["encoder"]
    model = model if placed else model.to(device)
    return wrap(model, *parts, budget=budget, processor=processor, encoder=encoder), processor


def open_stock(
    name: str | os.PathLike[str],
    *,
    encoder: Any = None,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    meta: bool = False,
    seed: int = 0,
    **options: Any,
) -> StockModel:
    """Open a model on the CPU without wrapping it.

    Args:
        name, dtype, trust_remote_code, seed, options: As `open_model` takes them.
        encoder: Replaces the frame encoder that was saved with the toolkit.
        meta: Build the model on the meta device, without weights and without a toolkit.

    Raises:
        ValueError, OSError: As `open_model`.
    """
    import torch
    import transformers

    auto, dtype = transformers.AutoModelForImageTextToText, read_dtype(dtype)
    place, trust = find_model(name), {"trust_remote_code": trust_remote_code}
    if meta or place is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            shape, processor = open_shape(name, **trust)
            if isinstance(shape, transformers.PretrainedConfig):
                options["dtype"] = shape.dtype or torch.float32 if dtype == "auto" else dtype
                # from_config modifies its argument.
                with torch.device("meta" if meta else "cpu"):
                    shape = auto.from_config(copy.deepcopy(shape), **options)
            elif dtype != "auto":
                shape.to(dtype)
            if meta:
                shape.to("meta")
        return StockModel(shape.eval(), processor, None)
    processor = open_processor(place, **trust)
    if not is_saved_by_vtc(place):
        model = load_weights(auto, place, dtype=dtype, **trust, **options)
        return StockModel(model.eval(), processor, None)
    options |= {"processor": processor, "encoder": encoder, "dtype": dtype, **trust}
    model = from_pretrained(place, **options)
    toolkit = toolkit_of(model)
    return StockModel(unwrap(model).eval(), processor, toolkit)


def open_shape(name: str | os.PathLike[str], *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Return the configuration and the processor of a model, without its weights.

    For a model that a plug-in makes in memory, return the model in place of its configuration.

    Raises:
        ValueError, OSError: As `open_model`.
    """
    place = find_model(name)
    if place is None:
        scheme, colon, rest = os.fspath(name).partition(":")
        function: Any = registry.model_function(scheme)
        model, processor = function(*[rest] if colon else [])
        return model, processor
    trust = {"trust_remote_code": trust_remote_code}
    return open_config(place, **trust), open_processor(place, **trust)


def find_model(name: str | os.PathLike[str]) -> str | None:
    """Return the folder, or the name on the hub, of a model.

    Returns:
        None for a model that a plug-in makes in memory.

    Raises:
        ValueError: The name has none of the forms that `open_model` takes.
    """
    text = os.path.expanduser(name)
    scheme, colon, _ = text.partition(":")
    function = registry.model_function(scheme)
    if function is None:
        check_model_name(text, ", shipped, or tiny:FAMILY")
        return text
    folder = None if colon else function()
    return os.fspath(folder) if isinstance(folder, str | os.PathLike) else None


def saved_parts(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the ``selector``, ``merger`` and ``encoder`` that a model was saved with.

    Returns:
        The contents of ``vtc.json``; ``encoder`` is None if it was an object, which cannot be
        saved by name. For other models, the defaults of ``vtc.wrap``.
    """
    place = find_model(name)
    if place is None or not is_saved_by_vtc(place):
        parts = {"selector": {"name": "dks"}, "merger": {"name": "dfm"}}
        return {**parts, "encoder": DEFAULT_ENCODER}
    saved = saved_config(place)
    if saved["encoder"] is not None:
        saved["encoder"] = find_encoder(saved["encoder"], place)
    return saved


def read_dtype(dtype: str | torch.dtype) -> Any:
    """Return the dtype with a name; ``"auto"`` is returned unchanged.

    Raises:
        ValueError: It is not a floating-point dtype.
    """
    import torch

    if dtype == "auto":
        return dtype
    value = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(f"expected dtype to be auto, float32, bfloat16 or float16, got {dtype!r}")
    return value
