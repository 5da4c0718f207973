"""Save a wrapped model: a stock folder, with the toolkit in two additional files."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from vtc.encoders.lazy import LazyEncoder
from vtc.pipeline.modules import active_module
from vtc.plugins import registry
from vtc.plugins.options import config_values
from vtc.wrapped.access import stock_model, toolkit_of
from vtc.wrapped.staging import staged

if TYPE_CHECKING:
    from vtc.pipeline.toolkit import Toolkit

CONFIG_NAME = "vtc.json"
WEIGHTS_NAME = "vtc.safetensors"
FORMAT = 1
_HUB_OPTIONS = (
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "max_shard_size",
    "tags",
)


def save_pretrained(model: Any, folder: str | os.PathLike[str]) -> None:
    """Save a wrapped model with its processor, so that ``vtc.from_pretrained`` opens it again.

    The stock weights keep the names of the stock class, so any program that opens the stock model
    can open the folder, without the toolkit. ``vtc.json`` and ``vtc.safetensors`` hold the
    toolkit. The processor is saved too if ``vtc.wrap`` was given one. An interrupted save leaves
    the folder's earlier model unchanged.

    Raises:
        ValueError: The model is not wrapped, or a part is not registered under a name.
    """
    toolkit = toolkit_of(model)
    if stock_model(model) is not model:  # peft saves its adapter
        model.save_pretrained(folder)
        if toolkit.processor is not None:
            toolkit.processor.save_pretrained(folder)
        return
    save_wrapped(model, type(model).vtc_stock_class.save_pretrained, folder, toolkit.processor)


def described(toolkit: Toolkit, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the contents of ``vtc.json`` for a toolkit: everything but its tensors.

    If the frame encoder is a folder, its path starts with ``../`` if it lies next to ``folder``,
    so that both can move; with ``./`` if it lies inside a saved model's folder, from which
    `save_wrapped` copies it; otherwise it is absolute.

    Raises:
        ValueError: A part is not registered under a name.
    """
    return {
        "format": FORMAT,
        "selector": registry.spec_of(toolkit.selector),
        "merger": registry.spec_of(active_module(toolkit.merger)),
        "budget": None if toolkit.budget is None else registry.spec_of(toolkit.budget),
        "connector": toolkit.connector_kind,
        "untrained": toolkit.untrained(),
        "encoder": None if toolkit.encoder.given_object else _place(toolkit.encoder.name, folder),
        "long_text": toolkit.encoder.long_text,
        "chunk_slices": toolkit.chunk_slices,
        "prefill_chunk": toolkit.prefill_chunk,
        "adapter": config_values(toolkit.adapter),
    }


def write_config(toolkit: Toolkit, folder: str | os.PathLike[str]) -> None:
    """Write ``vtc.json`` into an existing folder."""
    _write_config(described(toolkit, folder), Path(folder))


def _write_config(settings: dict[str, Any], folder: Path) -> None:
    text = json.dumps(settings, indent=2) + "\n"
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")


def save_wrapped(
    model: Any,
    stock_save: Callable[..., Any],
    folder: str | os.PathLike[str],
    processor: Any = None,
    **settings: Any,
) -> None:
    """Save the stock model and the toolkit: ``model.save_pretrained`` of a wrapped model.

    In a checkpoint of a Trainer, ``checkpoint-N``, all weights, those of the toolkit included, keep
    the names that they have in memory, because the Trainer resumes from these names.

    Args:
        stock_save: ``save_pretrained`` of the stock class.
        **settings: Keyword arguments of ``stock_save``.
    """
    if not os.fspath(folder):
        raise ValueError("expected a folder to save into, got ''")
    toolkit = toolkit_of(model)
    settings_of_toolkit = described(toolkit, folder)  # raises before anything is written
    push = settings.pop("push_to_hub", False)
    state = settings.pop("state_dict", None)
    state = model.state_dict() if state is None else state
    offloaded = next((name for name, value in state.items() if value.is_meta), None)
    if offloaded is not None and not hasattr(model, "hf_device_map"):
        raise ValueError(
            f"{offloaded} is offloaded, so it cannot be saved; take the hooks off first: "
            "accelerate.hooks.remove_hook_from_module(model, recurse=True)"
        )
    ours = {}
    if re.fullmatch(r"checkpoint-\d+", Path(folder).name):
        settings.setdefault("save_original_format", False)
    else:
        ours = {name: state[name] for name in state if name.startswith("vtc.")}
        state = {name: state[name] for name in state if name not in ours}
        ours = _whole_tensors(ours)
    if not settings.get("is_main_process", True) or settings.get("distributed_checkpoint"):
        stock_save(model, folder, state_dict=state, **settings)
        return
    with staged(Path(folder)) as new:
        stock_save(model, new, state_dict=state, **settings)
        if ours:
            save_file(ours, new / WEIGHTS_NAME, metadata={"format": "pt"})
        if processor is not None:
            processor.save_pretrained(new)
        _bring_encoder(toolkit.encoder, Path(folder), new)
        _write_config(settings_of_toolkit, new)
    if push:  # through this function again, to include the toolkit
        options = {name: settings[name] for name in _HUB_OPTIONS if name in settings}
        model.push_to_hub(settings.get("repo_id") or Path(folder).name, **options)


def _whole_tensors(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Return tensors on the CPU, gathered if they are sharded over processes.

    Raises:
        ValueError: A tensor is on the meta device, because its weights are offloaded.
    """
    whole = {}
    for name, tensor in tensors.items():
        tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        if tensor.is_meta:
            raise ValueError(
                f"{name} is offloaded, so it cannot be saved; open the model without a device_map "
                "that puts model.vtc on the disk"
            )
        whole[name.removeprefix("vtc.")] = tensor.detach().cpu().contiguous()
    return whole


def _place(encoder: str, folder: str | os.PathLike[str]) -> str:
    """Return the encoder's name with paths that do not depend on the working directory."""
    if _is_inside_a_model(encoder):
        return f"./{Path(encoder).name}"
    place = Path(encoder).expanduser()
    if place.is_dir():
        same_parent = place.absolute().parent == Path(folder).absolute().parent
        return f"../{place.name}" if same_parent else os.fspath(place.absolute())
    for prefix in ("open_clip:", "timm:"):
        rest = Path(encoder.removeprefix(prefix)).expanduser()
        if encoder.startswith(prefix) and rest.is_dir():
            return f"{prefix}{rest.absolute()}"
    model, slash, weights = encoder.removeprefix("open_clip:").partition("/")
    if slash and encoder.startswith("open_clip:") and Path(weights).expanduser().is_file():
        return f"open_clip:{model}/{Path(weights).expanduser().absolute()}"
    return encoder


def _is_inside_a_model(encoder: str) -> bool:
    return Path(encoder).is_dir() and (Path(encoder).parent / CONFIG_NAME).is_file()


def _bring_encoder(encoder: LazyEncoder, folder: Path, new: Path) -> None:
    """Copy a frame encoder that lies inside another saved model's folder.

    Args:
        folder: The folder that the model is saved to.
        new: The temporary folder that its files are written to first.
    """
    home = Path(encoder.name)
    inside = not encoder.given_object and _is_inside_a_model(encoder.name)
    if inside and home.parent.resolve() != folder.resolve():
        shutil.copytree(home, new / home.name)
