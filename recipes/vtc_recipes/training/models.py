"""Opens the model of a recipe, wrapped."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

import vtc
from vtc.plugins import registry
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.loading import is_saved_by_vtc
from vtc_recipes.tiny.trained import WEIGHTS
from vtc_recipes.training.config import SHIPPED, Recipe

TINY = "tiny:"
"""What the name of a model of ``vtc.testing`` begins with; ``tiny`` is also a frame encoder."""


def open_model(recipe: Recipe, *, meta: bool = False) -> tuple[Any, Any]:
    """The wrapped model of a recipe and its processor.

    Args:
        meta: Build it without weights, to count them.

    Raises:
        ValueError: The model was saved with a merger or connector that does not fit the recipe's.
    """
    name, seed = _place(recipe.model.name), recipe.optimisation.seed
    torch.manual_seed(seed)  # of a merger's new parameters
    saved = None
    if name.startswith(TINY):
        model, processor = vtc.testing.tiny(name.removeprefix(TINY), seed=seed)
        model.to(getattr(torch, recipe.model.dtype))
    else:
        model, processor, saved = _open(name, recipe, meta)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "merger .* has untrained parameters")
        vtc.wrap(
            model,
            recipe.vtc.selector,
            recipe.vtc.merger,
            processor=processor,
            encoder=_encoder(recipe.vtc.encoder),
        )
    toolkit = toolkit_of(model)
    toolkit.chunk_slices = recipe.vtc.chunk_frames
    toolkit.configure(**recipe.vtc.adapter)
    toolkit.add_connector(recipe.vtc.connector)
    if saved is not None:
        _take_over(toolkit, saved, name)
    return model, processor


def _open(name: str, recipe: Recipe, meta: bool) -> tuple[Any, Any, Any]:
    """A stock model, its processor, and the toolkit that it was saved with, if any."""
    import transformers

    if name.startswith("runs/") and not os.path.isdir(name):
        raise ValueError(
            f"model.name: there is no folder {name} here: train the stage that makes it first (vtc "
            f"train {os.path.basename(name)}), or set model.name to a model that you have"
        )
    dtype = getattr(torch, recipe.model.dtype)
    processor = transformers.AutoProcessor.from_pretrained(name)
    auto = transformers.AutoModelForImageTextToText
    options = {"dtype": dtype, "attn_implementation": recipe.model.attention}
    if meta:
        config = transformers.AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            return auto.from_config(config, **options), processor, None
    if not is_saved_by_vtc(name):
        return auto.from_pretrained(name, **options), processor, None
    model = vtc.from_pretrained(
        name, processor=processor, encoder=_encoder(recipe.vtc.encoder), **options
    )
    toolkit = toolkit_of(model)
    return vtc.unwrap(model), processor, toolkit


def _take_over(toolkit: Any, saved: Any, name: str) -> None:
    """Give the toolkit the trained tensors of the one that the model was saved with."""
    old, new = registry.spec_of(saved.merger), registry.spec_of(toolkit.merger)
    tensors = saved.state_dict()
    if saved.connector is None and toolkit.connector is not None:
        tensors |= {f"connector.{k}": v for k, v in toolkit.connector.state_dict().items()}
    if old["name"] != new["name"] or tensors.keys() != toolkit.state_dict().keys():
        ways = [one.connector_kind for one in (saved, toolkit)]
        raise ValueError(
            f"{name} was trained with merger {old} and the {ways[0]} connector, which do not fit "
            f"the recipe's {new} and {ways[1]}; set vtc.merger and vtc.connector likewise"
        )
    toolkit.load_state_dict(tensors)


def _encoder(name: str) -> Any:
    return vtc.testing.tiny_encoder() if name == "tiny" else _place(name)


def _place(name: str) -> str:
    """The folder of what is shipped; any other name as it is."""
    return str(WEIGHTS / name.removeprefix(SHIPPED)) if name.startswith(SHIPPED) else name
