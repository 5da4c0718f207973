"""Loading a model for a command: a hub name, a folder, or a folder that vtc saved."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_EXPONENT = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")
DEFAULT_ENCODER = "open_clip:ViT-B-32/openai"


@dataclass(frozen=True)
class PartChoice:
    """A selector or merger as the command line gives it; None stands for what is saved."""

    default: str
    name: str | None
    options: dict[str, Any]

    @property
    def given(self) -> bool:
        """Whether the command line says anything of the part."""
        return self.name is not None or bool(self.options)

    def spec(self, saved: dict[str, Any] | None = None) -> dict[str, Any]:
        """The part as ``vtc.wrap`` takes it."""
        if self.name is not None:
            return {"name": self.name, **self.options}
        return {**(saved or {"name": self.default}), **self.options}


def part_choice(
    default: str, name: str | None, options: Iterable[str], keyframes: int | None = None
) -> PartChoice:
    """Read ``--selector dks --selector-option fill=gaps --keyframes 8``.

    Raises:
        ValueError: An option is not of the form NAME=VALUE.
    """
    chosen = read_options(options)
    if keyframes is not None:
        if "keyframes" in chosen:
            raise ValueError("give either --keyframes or the option keyframes=, not both")
        chosen = {"keyframes": keyframes, **chosen}
    return PartChoice(default, name, chosen)


def read_options(options: Iterable[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE``, the values as YAML has them.

    Raises:
        ValueError: An option is not of this form.
    """
    import yaml

    chosen: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ValueError(f"option {option!r}: write NAME=VALUE, such as temperature=0.1")
        try:
            chosen[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"option {option!r}: the value is no valid YAML") from error
        if value == "None":
            chosen[key] = None
        if isinstance(chosen[key], str) and _EXPONENT.fullmatch(value):
            chosen[key] = float(value)  # PyYAML takes 1e-2 for a text
    return chosen


def load_model(
    name: str,
    selector: PartChoice,
    merger: PartChoice,
    encoder: str | None,
    device: str,
    dtype: str,
) -> tuple[Any, Any]:
    """Open a model with its processor, wrapped.

    What the command line leaves open is taken from the folder if vtc saved it, else from the
    defaults of ``vtc.wrap``.
    """
    import transformers

    import vtc
    from vtc.plugins.registry import adapter_for, build_part
    from vtc.wrapped.saving import is_saved_by_vtc, saved_config

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # What is wrong with the command should not wait for the weights.
    weights, place = {"dtype": read_dtype(dtype)}, pick_device(device)
    for kind, choice in (("selector", selector), ("merger", merger)):
        if choice.name is not None:
            build_part(kind, choice.spec())
    adapter_for(open_config(name).model_type)
    processor = transformers.AutoProcessor.from_pretrained(name)
    if not is_saved_by_vtc(name):
        model = transformers.AutoModelForImageTextToText.from_pretrained(name, **weights)
        model.eval().to(place)
        vtc.wrap(
            model,
            selector.spec(),
            merger.spec(),
            processor=processor,
            encoder=encoder or DEFAULT_ENCODER,
        )
        return model, processor
    saved = saved_config(name)
    model = vtc.from_pretrained(
        name,
        selector=selector.spec(saved["selector"]) if selector.given else None,
        merger=merger.spec(saved["merger"]) if merger.given else None,
        processor=processor,
        encoder=encoder,
        **weights,
    )
    return model.eval().to(place), processor


def open_config(name: str) -> Any:
    """The configuration of a model, before any other file of it is asked for.

    An unreachable hub is asked again and again for each file.

    Raises:
        ValueError: The name is neither a folder's nor one of the hub's.
        OSError: It cannot be read.
    """
    import transformers

    if not os.path.isdir(name) and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise ValueError(f"model {name!r} is neither a folder here nor of the form OWNER/NAME")
    try:
        return transformers.AutoConfig.from_pretrained(name)
    except OSError as error:
        raise OSError(f"model {name!r} cannot be opened: {error}") from error


def pick_device(device: str) -> str:
    """``auto`` is a GPU where there is one.

    Raises:
        ValueError: There is no such device.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used here: {reason}") from error
    return device


def read_dtype(name: str) -> Any:
    """A dtype by its name; ``auto`` stays what it is."""
    import torch

    if name == "auto":
        return name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={name!r}: allowed are auto, float32, bfloat16 and float16")
    return dtype
