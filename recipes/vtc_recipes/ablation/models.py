"""Where the model of a cell comes from, what it was saved with, and how it is opened."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vtc
from vtc.cli.models import PartChoice, load_model
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.loading import find_encoder, is_saved_by_vtc, saved_config
from vtc.wrapped.opening import DEFAULT_ENCODER
from vtc_recipes.ablation.config import Setting
from vtc_recipes.ablation.hashing import fingerprint
from vtc_recipes.tiny.trained import WEIGHTS
from vtc_recipes.training.models import TINY

SHIPPED = "shipped"
WITH_CHOICES = "{question} Answer with one word of: {choices}."


def model_folder(name: str) -> Path | None:
    """The folder that a model's name means; None for names on the hub and random weights.

    Raises:
        ValueError: It is no folder with a model, and of no other known form.
    """
    if name.startswith(TINY):
        return None
    folder = WEIGHTS / "vlm" if name == SHIPPED else Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(
            f"model {name!r} is no folder with a config.json; allowed is one, OWNER/NAME on the "
            "hub, shipped, tiny:FAMILY, or {recipe: NAME, settings: [...]}"
        )
    return None


def saved_parts(name: str) -> dict[str, Any]:
    """Selector, merger and encoder that a model was saved with, else those of ``vtc.wrap``."""
    folder = model_folder(name)
    if folder is not None and is_saved_by_vtc(folder):
        saved = saved_config(folder)
        if saved["encoder"] is not None:
            saved["encoder"] = find_encoder(saved["encoder"], folder)
        return saved
    encoder = "tiny" if name.startswith(TINY) else DEFAULT_ENCODER
    return {"selector": "dks", "merger": "dfm", "encoder": encoder}


def trained_merger(name: str) -> str | None:
    """The name of the merger whose parameters a model was saved with; None where there are none."""
    folder = model_folder(name)
    if folder is None or not is_saved_by_vtc(folder):
        return None
    return str(saved_config(folder)["merger"]["name"])


def identity(name: str, folder: Path | None) -> dict[str, Any]:
    """What a model is, for hashes: its files, or its name where they are not here."""
    return {"name": name} if folder is None else {"fingerprint": fingerprint(folder)}


def encoder_identity(encoder: str) -> dict[str, Any]:
    """What a frame encoder is, likewise."""
    folder = Path(encoder).expanduser()
    return identity(encoder, folder if folder.is_dir() else None)


def open_for(setting: Setting, source: str, device: str) -> tuple[Any, Any]:
    """The wrapped model of a cell and its processor.

    Args:
        source: The model's name or folder; of a model that was trained here, where it lies.

    Raises:
        ValueError: The merger has untrained parameters.
    """
    selector, merger = setting.selector, setting.merger
    encoder: Any = vtc.testing.tiny_encoder() if setting.encoder == "tiny" else setting.encoder
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "merger .* has untrained parameters")
        if source.startswith(TINY):
            model, processor = vtc.testing.tiny(source.removeprefix(TINY))
            vtc.wrap(model, selector, merger, processor=processor, encoder=encoder)
            model.to(device)
        else:
            folder = model_folder(source)
            model, processor = load_model(
                source if folder is None else os.fspath(folder),
                _choice(selector),
                _choice(merger),
                encoder,
                device,
                setting.dtype,
            )
    toolkit = toolkit_of(model)
    if "merger" in toolkit.untrained():
        raise ValueError(untrained(toolkit.name_of(toolkit.merger), source))
    for warning in toolkit.untrained_warnings():
        raise ValueError(f"{source}: {warning}, so its answers would be no result")
    return model, processor


def untrained(merger: str, model: str) -> str:
    """Why a merger without training is no result."""
    return (
        f"merger {merger!r} has parameters that were not trained with the model {model!r}, so "
        "its answers would be no result; let the grid train it (model: {recipe: ...}), or name a "
        "folder that was trained with it"
    )


def _choice(spec: Mapping[str, Any]) -> PartChoice:
    return PartChoice(spec["name"], spec["name"], {k: v for k, v in spec.items() if k != "name"})
