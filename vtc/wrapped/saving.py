"""Save a wrapped model: one folder, ``vtc.json`` beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtc.encoders.lazy import LazyEncoder
from vtc.pipeline.modules import active_module
from vtc.plugins import registry
from vtc.plugins.options import config_values
from vtc.wrapped.access import toolkit_of

if TYPE_CHECKING:
    from vtc.pipeline.toolkit import Toolkit

CONFIG_NAME = "vtc.json"
FORMAT = 1


def save_pretrained(model: Any, folder: str | os.PathLike[str]) -> None:
    """Save a wrapped model with its processor, so that ``vtc.from_pretrained`` opens it again.

    The weights stand in the stock format, the merger's among them; the folder holds ``vtc.json``
    besides, and the processor's files where ``vtc.wrap`` was given one.

    Raises:
        ValueError: The model is not wrapped, or a part is not registered under a name.
    """
    toolkit = toolkit_of(model)
    model.save_pretrained(folder)
    if toolkit.processor is not None:
        toolkit.processor.save_pretrained(folder)


def described(toolkit: Toolkit, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``vtc.json`` in a folder says of a toolkit: all but its tensors.

    A frame encoder that is a folder beside this one is named by ``../``, so that both can move;
    one inside a saved model's folder by ``./``, as `save_wrapped` brings it along.

    Raises:
        ValueError: A part is not registered under a name.
    """
    return {
        "format": FORMAT,
        "selector": registry.spec_of(toolkit.selector),
        "merger": registry.spec_of(active_module(toolkit.merger)),
        "connector": toolkit.connector_kind,
        "untrained": toolkit.untrained(),
        "encoder": None if toolkit.encoder.given_object else _beside(toolkit.encoder.name, folder),
        "long_text": toolkit.encoder.long_text,
        "chunk_slices": toolkit.chunk_slices,
        "prefill_chunk": toolkit.prefill_chunk,
        "adapter": config_values(toolkit.adapter),
    }


def write_config(toolkit: Toolkit, folder: str | os.PathLike[str]) -> None:
    """Write ``vtc.json`` into a folder that exists."""
    text = json.dumps(described(toolkit, folder), indent=2) + "\n"
    Path(folder, CONFIG_NAME).write_text(text, encoding="utf-8")


def save_wrapped(
    model: Any, stock: Callable[..., Any], folder: Any, *args: Any, **kwargs: Any
) -> Any:
    """``model.save_pretrained`` of a wrapped model: the stock one, and ``vtc.json``."""
    toolkit = toolkit_of(model)
    described(toolkit, folder)  # raises before anything is written
    push = kwargs.pop("push_to_hub", False)
    # The names in memory: the stock converter to old names loses them on resuming a Trainer.
    kwargs.setdefault("save_original_format", False)
    result = stock(model, folder, *args, **kwargs)
    if kwargs.get("is_main_process", True):
        _bring_encoder(toolkit.encoder, Path(folder))
        write_config(toolkit, folder)
    if push:  # by way of this function, so that vtc.json goes along
        model.push_to_hub(kwargs.get("repo_id") or Path(folder).name)
    return result


def _beside(encoder: str, folder: str | os.PathLike[str]) -> str:
    if _is_inside_a_model(encoder):
        return f"./{Path(encoder).name}"
    same_parent = Path(encoder).absolute().parent == Path(folder).absolute().parent
    return f"../{Path(encoder).name}" if same_parent and Path(encoder).is_dir() else encoder


def _is_inside_a_model(encoder: str) -> bool:
    return Path(encoder).is_dir() and (Path(encoder).parent / CONFIG_NAME).is_file()


def _bring_encoder(encoder: LazyEncoder, folder: Path) -> None:
    """Copy a frame encoder that lies inside a saved model's folder into the one being saved."""
    home = Path(encoder.name)
    inside = not encoder.given_object and _is_inside_a_model(encoder.name)
    if inside and home.parent.resolve() != folder.resolve():
        shutil.copytree(home, folder / home.name, dirs_exist_ok=True)
