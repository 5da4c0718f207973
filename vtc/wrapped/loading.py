"""Open a saved wrapped model: stock weights, ``vtc.json`` and the toolkit's tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from vtc.encoders.lazy import LazyEncoder
from vtc.plugins.sections import Row, load_json, parse
from vtc.wrapped.model_class import wrapped_class
from vtc.wrapped.saving import CONFIG_NAME, FORMAT, WEIGHTS_NAME
from vtc.wrapped.staging import finish
from vtc.wrapped.stock import (
    check_weights,
    is_hub_name,
    load_weights,
    open_config,
    open_processor,
    read_index,
)
from vtc.wrapped.wrapping import splice, warn_of_untrained

if TYPE_CHECKING:
    from torch import Tensor

    from vtc.pipeline.toolkit import Toolkit

_WEIGHTS = "model.safetensors"
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def from_pretrained(
    folder: str | os.PathLike[str],
    *,
    selector: Any = None,
    merger: Any = None,
    budget: Any = None,
    processor: Any = None,
    encoder: Any = None,
    **kwargs: Any,
) -> Any:
    """Open a model that ``vtc.save_pretrained`` saved, wrapped with its saved parts.

    Args:
        folder: A folder, or the name of a repository on the hub.
        selector: Replaces the saved selector; in any form that ``vtc.wrap`` takes.
        merger: Replaces the saved merger, likewise. The saved weights are kept if only the options
            change; another merger gets new weights.
        budget: Replaces the saved budget, likewise.
        processor: Replaces the processor in the folder.
        encoder: Replaces the saved frame encoder; required if that was an object.
        **kwargs: Passed to the stock ``from_pretrained`` (``dtype``, ``device_map``, ...). Python
            code in the folder runs only with ``trust_remote_code=True``.

    Raises:
        ValueError: ``vtc.json`` is missing or has a later format, or weights are missing.
    """
    for name in ("variant", "output_loading_info"):
        if name in kwargs:
            raise ValueError(f"{name} is not supported by vtc.from_pretrained; leave it out")
    saved = saved_config(folder, **_hub(kwargs))
    trust = {"trust_remote_code": kwargs.pop("trust_remote_code", False)}
    config = open_config(folder, **trust, **_hub(kwargs))
    base = _stock_class(config, folder)
    # While loading, use the subclass, which does not report the toolkit's tensors as unexpected.
    model = load_weights(wrapped_class(base), folder, **trust, **kwargs)
    model.__class__ = base
    try:
        toolkit = splice(
            model,
            selector or saved["selector"],
            merger or saved["merger"],
            processor if processor is not None else _processor(folder, trust | kwargs),
            encoder or _saved_encoder(saved, folder, _hub(kwargs)),
            budget or saved["budget"],
        )
        toolkit.configure(**saved["adapter"])
    except (ValueError, TypeError, ImportError) as error:
        raise type(error)(f"{CONFIG_NAME} in {folder}: {error}") from error
    toolkit.chunk_slices = saved["chunk_slices"]
    toolkit.prefill_chunk = saved["prefill_chunk"]
    toolkit.add_connector(saved["connector"])
    _load_toolkit(toolkit, folder, kwargs, saved["merger"]["name"])
    for name in saved["untrained"]:
        if getattr(toolkit, name) is not None and not (name == "merger" and toolkit.merger_is_new):
            toolkit.note_new(name)
    warn_of_untrained(toolkit, stacklevel=3)
    return model


class SavedToolkit(Row):
    """The contents of ``vtc.json``."""

    format: int
    selector: dict[str, Any]
    merger: dict[str, Any]
    budget: dict[str, Any] | None = None
    connector: Literal["stock", "separate", "encoder_patches"]
    untrained: list[Literal["merger", "connector"]] = []
    encoder: str | None
    long_text: Literal["split", "truncate"] = "split"
    chunk_slices: PositiveInt
    prefill_chunk: PositiveInt | None = 4096
    adapter: dict[str, Any]


def saved_config(folder: str | os.PathLike[str], **hub: Any) -> dict[str, Any]:
    """Return the contents of ``vtc.json`` in a folder or in a repository on the hub.

    Raises:
        ValueError: It has a later format, or is damaged.
        FileNotFoundError: There is none.
    """
    file = _file(folder, CONFIG_NAME, hub)
    saved = load_json(file)
    if not isinstance(saved, dict):
        raise ValueError(f"{file}: expected a mapping, got {type(saved).__name__}")
    if saved.get("format") != FORMAT:
        raise ValueError(
            f"{CONFIG_NAME} in {folder} has format {saved.get('format')!r}, but this version of "
            f"vtc reads format {FORMAT}; install a newer one"
        )
    return parse(SavedToolkit, _with_new_names(saved), str(file)).plain()


def _stock_class(config: Any, folder: str | os.PathLike[str]) -> Any:
    import transformers

    names = config.architectures or ["none"]
    if not hasattr(transformers, names[0]):
        raise ValueError(
            f"config.json in {os.fspath(folder)}: expected architectures to name a class of "
            f"transformers, got {config.architectures}"
        )
    return getattr(transformers, names[0])


def _with_new_names(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of ``vtc.json`` with names of earlier versions replaced."""
    if "chunk_frames" in saved:
        saved["chunk_slices"] = saved.pop("chunk_frames")
    if saved.get("connector") == "trained":
        saved["connector"] = "encoder_patches"
    return {"connector": "stock", **saved}


def find_encoder(name: str, folder: str | os.PathLike[str], **hub: Any) -> str:
    """Return the frame encoder that ``vtc.json`` in a folder names.

    An encoder inside a repository on the hub is downloaded.

    Args:
        folder: A folder, or the name of a repository.
        **hub: Options for the hub, such as ``revision``.

    Raises:
        OSError: The repository cannot be read.
    """
    if name.startswith("../"):
        return str(Path(folder).parent / name.removeprefix("../"))
    if not name.startswith("./"):
        return name
    if is_hub_name(folder):
        from huggingface_hub import snapshot_download

        inside = name.removeprefix("./")
        options = {key: value for key, value in hub.items() if key != "subfolder"}
        folder = snapshot_download(os.fspath(folder), allow_patterns=f"{inside}/*", **options)
    return str(Path(folder) / name)


def _saved_encoder(
    saved: dict[str, Any], folder: str | os.PathLike[str], hub: dict[str, Any]
) -> Any:
    """Return the frame encoder that ``vtc.json`` in a folder names, without loading it."""
    if saved["encoder"] is None:
        return MissingEncoder()
    name = find_encoder(saved["encoder"], folder, **hub)
    return LazyEncoder(name, long_text=saved["long_text"])


class MissingEncoder:
    """Stands in for a frame encoder that was an object, which cannot be saved by name."""

    def _raise(self, _: object) -> Tensor:
        raise ValueError(
            "the model was saved with a frame encoder that was an object; pass the encoder: "
            "vtc.from_pretrained(folder, encoder=...), or --encoder on the command line"
        )

    encode_frames = encode_text = encode_text_raw = encode_patches = _raise


def _load_toolkit(
    toolkit: Toolkit, folder: str | os.PathLike[str], kwargs: dict[str, Any], saved_merger: str
) -> None:
    """Load the saved tensors into the merger and the connector, and check that they match."""
    replaced = toolkit.name_of(toolkit.merger) != saved_merger
    toolkit.merger_is_new = replaced
    state = {k: v for k, v in toolkit.state_dict().items() if not (replaced and _of_merger(k))}
    if not state:
        return
    saved = {
        key: value
        for key, value in _saved_tensors(folder, kwargs).items()
        if not (replaced and _of_merger(key))
    }
    if saved.keys() != state.keys():
        missing, extra = sorted(state.keys() - saved), sorted(saved.keys() - state)
        raise ValueError(
            f"the weights in {folder} do not fit its {CONFIG_NAME}: tensors missing: "
            f"{missing}, unexpected: {extra}"
        )
    for key, value in saved.items():
        if value.is_floating_point() != state[key].is_floating_point():
            raise ValueError(
                f"{key} in {folder}: expected a tensor of {state[key].dtype}, got {value.dtype}"
            )
        if value.shape != state[key].shape:
            raise ValueError(
                f"{key} in {folder}: expected shape {list(state[key].shape)} for the frame encoder "
                f"{toolkit.encoder.name}, got {list(value.shape)}; pass the frame encoder that the "
                "merger or connector was trained with"
            )
    toolkit.load_state_dict({**toolkit.state_dict(), **saved})


def _saved_tensors(folder: str | os.PathLike[str], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Return the toolkit's tensors; in a Trainer's checkpoint they are among the weights."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        file = _file(folder, WEIGHTS_NAME, kwargs)
    except OSError:
        file = None
    if file is not None:
        check_weights(file)
        return dict(load_file(file))
    try:
        index = read_index(_file(folder, f"{_WEIGHTS}.index.json", kwargs))
        shards = sorted({name for key, name in index.items() if _ours(key)})
    except OSError:  # one file holds everything
        shards = [_WEIGHTS]
    toolkit: dict[str, Tensor] = {}
    for shard in shards:
        with safe_open(_file(folder, shard, kwargs), framework="pt") as tensors:
            for key in filter(_ours, tensors.keys()):
                toolkit[key.removeprefix("vtc.")] = tensors.get_tensor(key)
    return toolkit


def _of_merger(key: str) -> bool:
    return key.startswith("merger.")


def _ours(key: str) -> bool:
    return key.startswith("vtc.")


def _file(folder: str | os.PathLike[str], name: str, kwargs: dict[str, Any]) -> Path:
    """Return a file of a local folder or of a repository on the hub."""
    from transformers.utils import cached_file

    if not is_hub_name(folder):
        finish(Path(folder, kwargs.get("subfolder", "")))
        file = Path(folder, kwargs.get("subfolder", ""), name)
        if not file.is_file():
            raise FileNotFoundError(
                f"{file.parent} holds no {name}; vtc.from_pretrained opens folders that "
                "vtc.save_pretrained wrote"
            )
        return file
    return Path(cached_file(os.fspath(folder), name, **_hub(kwargs)))


def _hub(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the options for the hub, such as ``revision``."""
    return {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}


def is_saved_by_vtc(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder, or a repository on the hub, holds a wrapped model."""
    try:
        _file(folder, CONFIG_NAME, {})
    except OSError:  # raised by transformers if a repository has no such file
        return False
    return True


def _processor(folder: str | os.PathLike[str], kwargs: dict[str, Any]) -> Any:
    """Return the processor saved with the model; None if there is none."""
    trust = kwargs["trust_remote_code"]
    for name in ("processor_config.json", "preprocessor_config.json"):
        try:
            _file(folder, name, kwargs)
        except OSError:
            continue
        return open_processor(folder, trust_remote_code=trust, **_hub(kwargs))
    return None
