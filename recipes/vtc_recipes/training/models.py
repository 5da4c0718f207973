"""Open and wrap the model of a recipe."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

import vtc
from vtc.encoders.tiny import tiny_encoder
from vtc.plugins import registry
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.opening import open_stock, saved_parts
from vtc_recipes.training.config import SHIPPED, Recipe


def open_model(recipe: Recipe, *, meta: bool = False) -> tuple[Any, Any]:
    """Open the wrapped model of a recipe and its processor.

    Args:
        meta: Build the model without weights, only to count them.

    Raises:
        ValueError: The model was saved with a merger or connector that does not fit the recipe's.
    """
    name, seed = _model_name(recipe.model.name), recipe.optimisation.seed
    encoder = _encoder(recipe.vtc.encoder)
    model, processor, saved = open_stock(
        name,
        encoder=encoder,
        dtype=recipe.model.dtype,
        meta=meta,
        seed=seed,
        attn_implementation=recipe.model.attention,
    )
    torch.manual_seed(seed)  # for the new parameters of the merger
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "merger .* has untrained parameters")
        parts = recipe.vtc.selector, recipe.vtc.merger
        vtc.wrap(model, *parts, processor=processor, encoder=encoder)
    toolkit = toolkit_of(model)
    toolkit.chunk_slices = recipe.vtc.chunk_slices
    toolkit.configure(**recipe.vtc.adapter)
    toolkit.add_connector(recipe.vtc.connector)
    if saved is not None:
        _load_trained(toolkit, saved, name)
    return model, processor


def _load_trained(toolkit: Any, saved: Any, name: str) -> None:
    """Copy the trained tensors of the toolkit saved with a model."""
    old, new = registry.spec_of(saved.merger), registry.spec_of(toolkit.merger)
    tensors = saved.state_dict()
    if saved.connector is None and toolkit.connector is not None:
        tensors |= {f"connector.{k}": v for k, v in toolkit.connector.state_dict().items()}
    if old["name"] != new["name"] or tensors.keys() != toolkit.state_dict().keys():
        kinds = [owner.connector_kind for owner in (saved, toolkit)]
        raise ValueError(
            f"{name} was trained with merger {old} and the {kinds[0]} connector, which do not fit "
            f"the recipe's {new} and {kinds[1]}; set vtc.merger and vtc.connector to match"
        )
    toolkit.load_state_dict(tensors)


def _encoder(name: str) -> Any:
    if name == "tiny":
        return tiny_encoder()
    # The dual encoder belongs to the shipped model, whose vtc.json names it.
    return saved_parts("shipped")["encoder"] if name.startswith(SHIPPED) else name


def _model_name(name: str) -> str:
    if name.startswith("runs/") and not os.path.isdir(name):
        raise ValueError(
            f"model.name: there is no folder {name}: first train the stage that writes it (vtc "
            f"train {os.path.basename(name)}), or set model.name to a model that you have"
        )
    return "shipped" if name.startswith(SHIPPED) else name
