"""Find the model of a cell, read the parts it was saved with, and open it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from vtc.encoders.tiny import tiny_encoder
from vtc.wrapped import opening
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.loading import is_saved_by_vtc
from vtc_recipes.ablation.config import Setting
from vtc_recipes.ablation.hashing import fingerprint

SHIPPED, TINY = "shipped", "tiny:"
WITH_CHOICES = "{question} Answer with one word of: {choices}."


def saved_parts(name: str) -> dict[str, Any]:
    """Return the selector, merger and encoder saved in a model's folder, or the defaults."""
    if name.startswith(TINY):
        return {"selector": "dks", "merger": "dfm", "encoder": "tiny"}
    if _folder(name) is None:  # a grid is checked without network access
        return {"selector": "dks", "merger": "dfm", "encoder": opening.DEFAULT_ENCODER}
    return opening.saved_parts(name)


def trained_merger(name: str) -> str | None:
    """Return the name of the merger saved in a model's folder; None if vtc did not save it."""
    folder = _folder(name)
    if folder is None or not is_saved_by_vtc(folder):
        return None
    return str(opening.saved_parts(name)["merger"]["name"])


def model_identity(name: str) -> dict[str, Any]:
    """Identify a model for hashes: by its files, or by its name if they are not local.

    Raises:
        ValueError: The name has none of the forms that `vtc.open_model` accepts.
    """
    return _identity(name, _folder(name))


def encoder_identity(encoder: str) -> dict[str, Any]:
    """Identify a frame encoder in the same way."""
    return _identity(encoder, Path(encoder).expanduser())


def open_for(setting: Setting, source: str, device: str) -> tuple[Any, Any]:
    """Open the wrapped model of a cell and its processor.

    Args:
        source: The name or folder of the model; the folder if the grid trained it.

    Raises:
        ValueError: The merger or the connector has untrained parameters.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "merger .* has untrained parameters")
        model, processor = opening.open_model(
            source,
            selector=setting.selector,
            merger=setting.merger,
            budget=setting.budget,
            encoder=tiny_encoder() if setting.encoder == "tiny" else setting.encoder,
            device=device,
            dtype=setting.dtype,
        )
    toolkit = toolkit_of(model)
    if "merger" in toolkit.untrained():
        raise ValueError(untrained(toolkit.name_of(toolkit.merger), source))
    for warning in toolkit.untrained_warnings():
        raise ValueError(f"{source}: {warning}, so its answers would be meaningless")
    return model, processor


def untrained(merger: str, model: str) -> str:
    """Return the error message for a merger without trained parameters."""
    return (
        f"merger {merger!r} has parameters that were not trained with the model {model!r}, so its "
        "answers would be meaningless; let the grid train it (model: {recipe: ...}), or name a "
        "folder of a model trained with it"
    )


def _folder(name: str) -> Path | None:
    place = opening.find_model(name)
    return Path(place) if place is not None and Path(place).is_dir() else None


def _identity(name: str, folder: Path | None) -> dict[str, Any]:
    if folder is None or not folder.is_dir():
        return {"name": name}
    return {"fingerprint": fingerprint(folder)}
