"""Options that choose parts on the command line, and the model that a command loads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_EXPONENT = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")


@dataclass(frozen=True)
class PartChoice:
    """A selector or merger as the command line gives it; None stands for what is saved."""

    default: str
    name: str | None
    options: dict[str, Any]

    @property
    def given(self) -> bool:
        """Whether the command line names the part or sets an option of it."""
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
    values = read_options(options)
    if keyframes is not None:
        if "keyframes" in values:
            raise ValueError("give either --keyframes or the option keyframes=, not both")
        values = {"keyframes": keyframes, **values}
    return PartChoice(default, name, values)


def read_options(options: Iterable[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE``, the values as YAML has them.

    Raises:
        ValueError: An option is not of this form.
    """
    import yaml

    values: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ValueError(f"option {option!r}: write NAME=VALUE, such as temperature=0.1")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"option {option!r}: the value is no valid YAML") from error
        if value == "None":
            values[key] = None
        if isinstance(values[key], str) and _EXPONENT.fullmatch(value):
            values[key] = float(value)  # PyYAML takes 1e-2 for a text
    return values


def load_model(
    name: str,
    selector: PartChoice,
    merger: PartChoice,
    encoder: str | None,
    device: str,
    dtype: str,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> tuple[Any, Any]:
    """Open a model with its processor, wrapped; see `vtc.open_model`.

    Parts that the command line leaves open are those that were saved with the model, else the
    defaults of ``vtc.wrap``.
    """
    import transformers

    from vtc.wrapped.opening import open_model, saved_parts

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    saved, options = saved_parts(name), dict[str, Any]()
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    return open_model(
        name,
        selector=selector.spec(saved["selector"]) if selector.given else None,
        merger=merger.spec(saved["merger"]) if merger.given else None,
        encoder=encoder,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        **options,
    )
