"""From YAML to frozen dataclasses, collecting all errors rather than stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, Field, field, fields, is_dataclass
from inspect import formatannotation
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from vtc.plugins.discovery import suggestion
from vtc.plugins.options import conform
from vtc_recipes.schema import RecipeError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """``yaml.safe_load``, but ``1e-5`` is a number and no key may stand twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                where = node.start_mark.line + 1
                raise yaml.YAMLError(
                    f"the key {key!r} stands twice, in the mapping of line {where}"
                )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def option(default: Any, check: Callable[[Any], bool], allowed: str) -> Any:
    """A field whose values are checked while they are read; `allowed` says what is."""

    def problem(value: Any) -> str:
        return "" if check(value) else f"{value!r}: allowed is {allowed}"

    return field(default=default, metadata={"problem": problem})


def positive(default: Any = MISSING) -> Any:
    """A field for a number above 0, or None where that is the default."""
    return option(default, lambda value: value is None or value > 0, "a number above 0")


def at_least_0(default: Any) -> Any:
    """A field for a number of at least 0."""
    return option(default, lambda value: value >= 0, "a number of at least 0")


def fraction(default: float) -> Any:
    """A field for a number from 0 to 1."""
    return option(default, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: It is no YAML, or no mapping; the message names the file.
    """
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}; allowed is a mapping of sections")
    return values


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of some values with ``"data.sources.0.path=clips.json"`` and the like set in it.

    Raises:
        RecipeError: Those that are not of the form, or lead nowhere.
    """
    changed, errors = deepcopy(dict(values)), []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        try:
            if not equals or not all(dotted.split(".")):
                raise ValueError("write SECTION.NAME=VALUE, such as optimisation.steps=10")
            set_value(changed, dotted, _parse(text))
        except (ValueError, yaml.YAMLError) as error:
            errors.append(f"{override}: {error}")
    if errors:
        raise RecipeError("the command line", errors)
    return changed


def read(cls: type[T], values: Any, where: str, errors: list[str]) -> T | None:
    """Make a dataclass of plain values.

    Args:
        where: The dotted name of ``values`` in messages.
        errors: What is wrong is appended to it.

    Returns:
        None where something is wrong.
    """
    if not isinstance(values, Mapping):
        errors.append(f"{where}: {values!r}: allowed is a mapping")
        return None
    known = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
    before = len(errors)
    for name in values:
        if name not in known:
            errors.append(
                f"{_dotted(where, name)} is unknown; known: {', '.join(known)}."
                f"{suggestion(str(name), known)}"
            )
    types = get_type_hints(cls)
    found = {}
    for entry in fields(cls):  # type: ignore[arg-type]
        name, kind = entry.name, types[entry.name]
        if name in values:
            found[name] = _value(entry, kind, values[name], _dotted(where, name), errors)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            errors.append(f"{_dotted(where, name)} is missing")
    return cls(**found) if len(errors) == before else None


def _value(entry: Field[Any], kind: Any, value: Any, where: str, errors: list[str]) -> Any:
    """One value as a field of a type holds it; None, and a new error, where it does not fit."""
    if is_dataclass(kind):
        return read(kind, value, where, errors)  # type: ignore[arg-type]
    items = get_args(kind)[:1]
    if get_origin(kind) is tuple and is_dataclass(items[0]):
        if not isinstance(value, list):
            errors.append(f"{where}: {value!r}: allowed is a list")
            return None
        return tuple(
            read(items[0], item, f"{where}.{number}", errors)  # type: ignore[arg-type]
            for number, item in enumerate(value)
        )
    try:
        value = value if kind is Any else conform(value, kind)
    except ValueError as error:
        errors.append(f"{where}: {value!r}: {error}")
        return None
    except TypeError:
        given = type(value).__name__
        errors.append(f"{where}: {value!r} ({given}): allowed is {formatannotation(kind)}")
        return None
    if "problem" in entry.metadata and (problem := entry.metadata["problem"](value)):
        errors.append(f"{where}: {problem}")
    return value


def set_value(values: Any, dotted: str, value: Any) -> None:
    """Set what a dotted name leads to in nested mappings and lists.

    Raises:
        ValueError: It leads nowhere.
    """
    path = dotted.split(".")
    for depth, name in enumerate(path):
        key: Any = name
        if isinstance(values, list):
            if not name.isdecimal() or int(name) >= len(values):
                has = f"has entries 0 to {len(values) - 1}" if values else "is an empty list"
                raise ValueError(f"{'.'.join(path[:depth])} {has}, got {name!r}")
            key = int(name)
        elif not isinstance(values, dict):
            raise ValueError(f"{'.'.join(path[:depth])} is {values!r} and has nothing in it")
        if depth + 1 == len(path):
            values[key] = value
        else:
            values = values[key] if isinstance(values, list) else values.setdefault(key, {})


def _dotted(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader
