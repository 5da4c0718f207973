"""Read stock models from folders and the hub: configuration, processor and weights."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath
from types import UnionType
from typing import Any

from vtc.plugins.discovery import cause
from vtc.plugins.sections import Row, load_json, read_json


def is_hub_name(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is a repository on the hub, ``OWNER/NAME``, not a local folder."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    name = os.fspath(name)
    if os.path.isdir(name) or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_model_name(name: str | os.PathLike[str], others: str = "") -> None:
    """Check that a name is a model's folder or has the form of a name on the hub.

    Args:
        name: The name that the user gave.
        others: Other forms that the caller accepts, for the message.

    Raises:
        ValueError: It is neither.
    """
    if os.path.isfile(os.path.join(name, "config.json")) or is_hub_name(name):
        return
    what = "a folder without a config.json" if os.path.isdir(name) else "not a folder"
    raise ValueError(
        f"model {os.fspath(name)!r} is {what}; give a folder with a config.json, OWNER/NAME on the "
        f"hub{others}"
    )


def open_config(
    name: str | os.PathLike[str], *, trust_remote_code: bool = False, **hub: Any
) -> Any:
    """Read the configuration of a model, without fetching its other files.

    Raises:
        ValueError: The model needs its own Python code and ``trust_remote_code`` is False, or a
            JSON file is damaged.
        OSError: It cannot be read.
    """
    import transformers

    check_json(name, "config.json")
    config = transformers.AutoConfig
    try:
        return config.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    except OSError as error:
        raise OSError(f"model {os.fspath(name)!r} cannot be opened: {error}") from error


def open_processor(
    name: str | os.PathLike[str], *, trust_remote_code: bool = False, **hub: Any
) -> Any:
    """Read the processor of a model; see `open_config`."""
    import transformers

    check_json(name, "*.json")
    processor = transformers.AutoProcessor
    try:
        return processor.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
    except (OSError, ValueError, ImportError):
        raise
    # tokenizers raises bare Exceptions, and unexpected JSON may cause any other error.
    except Exception as error:
        message = f"the processor in {os.fspath(name)} cannot be opened: {cause(error)}"
        raise ValueError(message) from error


def check_json(folder: str | os.PathLike[str], *patterns: str) -> None:
    """Check the JSON files of a folder, as transformers' errors do not name the damaged file.

    Raises:
        ValueError: A file is not valid JSON, or an index names weights outside the folder.
    """
    for file in sorted({file for pattern in patterns for file in Path(folder).glob(pattern)}):
        if file.name.endswith(".index.json"):
            read_index(file)
        elif not isinstance(values := load_json(file), _json_kinds(file)):
            raise ValueError(f"{file}: expected a mapping, got {type(values).__name__}")


def _json_kinds(file: Path) -> type | UnionType:
    return dict if file.name.endswith(("config.json", "tokenizer.json")) else dict | list


class _Index(Row):
    weight_map: dict[str, str]
    metadata: dict[str, Any]


def read_index(file: Path) -> dict[str, str]:
    """Read the index of sharded weights.

    Returns:
        The file of each tensor.

    Raises:
        ValueError: The index is damaged, or names files outside its folder.
    """
    files = read_json(file, _Index).weight_map
    for key, name in files.items():
        path = PureWindowsPath(name)  # it accepts both separators
        if path.anchor or ".." in path.parts or not name:
            raise ValueError(
                f"{file}: weight_map of {key}: expected a file in this folder, got {name!r}"
            )
    return files


def check_weights(*files: Path, are_quantized: bool = False) -> None:
    """Check files of weights, as safetensors' errors do not name the damaged file.

    Args:
        are_quantized: Whether weights may be integers.

    Raises:
        ValueError: A file is cut off or not a safetensors file, or its weights are integers
            although the model is not quantized.
    """
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                weights = [key for key in tensors.keys() if key.endswith("weight")]
                types = {key: tensors.get_slice(key).get_dtype() for key in weights}
        except SafetensorError as error:
            raise ValueError(
                f"{file} is cut off or not a safetensors file ({error}); download or save it again"
            ) from error
        integer = next((key for key in weights if types[key].lstrip("U")[0] == "I"), None)
        if integer is not None and not are_quantized:
            raise ValueError(
                f"{file}: {integer} holds integers ({types[integer]}), but config.json has no "
                "quantization_config to read them with"
            )


def load_weights(
    model_class: Any,
    name: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    ignore_mismatched_sizes: bool = False,
    **options: Any,
) -> Any:
    """Load a model with ``model_class.from_pretrained``; raise if weights are incomplete.

    transformers initialises missing weights at random and only logs it. Tensors that the stock
    class computes or ignores may be missing.

    Args:
        model_class: A stock class, or one of transformers' auto classes.
        name: A folder or a name on the hub.
        trust_remote_code: Run Python code that is stored with the weights.
        ignore_mismatched_sizes: Initialise weights of another shape at random, as transformers
            does.
        **options: Passed on (``dtype``, ``device_map``, ...).

    Raises:
        ValueError: Weights are missing, or have another shape.
    """
    check_json(name, "*config.json", "*.index.json")
    check_weights(
        *(file for file in sorted(Path(name).glob("model*.safetensors")) if file.is_file()),
        are_quantized=_are_quantized(Path(name, "config.json")),
    )
    model, loading = model_class.from_pretrained(
        name,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they raise below, with their names
        **{"use_safetensors": True, **options},
    )
    kind = type(model).__name__
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"the weights in {os.fspath(name)} lack {len(missing)} tensors of {kind}, such as "
            f"{missing[0]}; download or save the model again"
        )
    mismatched = sorted(loading["mismatched_keys"], key=str)
    if mismatched and not ignore_mismatched_sizes:
        key, saved, expected = mismatched[0]
        raise ValueError(
            f"{len(mismatched)} tensors in {os.fspath(name)} do not fit its config.json, such as "
            f"{key}: expected {list(expected)}, got {list(saved)}"
        )
    return model


def _are_quantized(config: Path) -> bool:
    return config.is_file() and "quantization_config" in load_json(config)
