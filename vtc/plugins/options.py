"""The options of a part: read the class's ``Config`` and make parts with checked options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vtc.interfaces.part import PASS, part_errors
from vtc.interfaces.renamed import warn_renamed
from vtc.plugins.discovery import cause, suggestion

PLAIN = "bool, int, float, str, None, Literal, and list[...], tuple[...], dict[...] of these"


@dataclass(frozen=True)
class Option:
    """An option of a part: its type annotation and its default."""

    annotation: Any
    default: Any


def make(cls: type, label: str, options: Mapping[str, Any], plugin: str = "") -> Any:
    """Make a part with options.

    Args:
        cls: The part's class.
        label: The part in messages: ``selector 'dks'``.
        options: Values by option name; other options keep their defaults.
        plugin: The plug-in, named in messages about errors of its own code.

    Raises:
        ValueError: An option is unknown, or a value is out of range.
        TypeError: A value has the wrong type, or ``Config`` is malformed.
        RuntimeError: The class raised any other exception.
    """
    declared = options_of(cls)
    options = with_new_names(cls, label, options)
    for name in options:
        if not declared:
            raise ValueError(f"{label} takes no options, got {name!r}")
        if name not in declared:
            raise ValueError(
                f"{label} has no option {name!r}; it takes: {', '.join(declared)}."
                f"{suggestion(str(name), list(declared))}"
            )
    values = {name: _conform_option(label, name, options[name], declared[name]) for name in options}
    config = getattr(cls, "Config", None)
    with part_errors(label, plugin):
        arguments = [] if config is None else [config(**values)]
    with part_errors(f"{label} of {plugin}" if plugin else label):
        return cls(*arguments)


def with_new_names(cls: type, label: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace old names of options by the new ones, with a DeprecationWarning.

    Raises:
        ValueError: An option is given by its old and its new name.
    """
    new_names = getattr(cls, "renamed_options", {})
    declared = options_of(cls)
    values: dict[str, Any] = {}
    for name, value in options.items():
        new = name if name in declared else new_names.get(name, name)
        if new != name:
            warn_renamed(f"the option {name!r} of {label}", repr(new))
            if new in options:
                raise ValueError(f"{label}: give {new}, not {new} and {name}, its old name")
        values[new] = value
    return values


def options_of(cls: type) -> dict[str, Option]:
    """Return the options of a part class by name, in their order; empty if it takes none.

    Raises:
        TypeError: ``cls.Config`` is not a frozen, keyword-only dataclass of plain JSON values
            with defaults.
    """
    config = getattr(cls, "Config", None)
    if config is None:
        return {}
    where = f"{cls.__module__}.{cls.__qualname__}.Config"
    if not (
        isinstance(config, type)
        and is_dataclass(config)
        and config.__dataclass_params__.frozen  # type: ignore[attr-defined]
        and all(option.kw_only for option in fields(config))
    ):
        raise TypeError(
            f"{where} must be a frozen, keyword-only dataclass: @dataclass(frozen=True, "
            "kw_only=True)"
        )
    try:
        annotations = get_type_hints(config)
    except PASS:
        raise
    # Annotations are third-party code, and evaluating them may raise anything.
    except BaseException as error:
        raise TypeError(f"{where}: its annotations cannot be read: {cause(error)}") from error
    return {f.name: _option(where, f, annotations[f.name]) for f in fields(config)}


def config_values(part: Any) -> dict[str, Any]:
    """Return the options of a part by name; empty if its class takes none.

    Raises:
        TypeError: The part does not keep its options in ``config``.
    """
    config_class = getattr(part, "Config", None)
    if config_class is None:
        return {}
    if not isinstance(part.config, config_class):
        raise TypeError(
            f"{type(part).__qualname__} does not keep its options in self.config; its __init__ "
            "must call super().__init__(config)"
        )
    return asdict(part.config)


def conform(value: Any, annotation: Any) -> Any:
    """Check a value against a type annotation; return it, with lists converted to tuples.

    An int is accepted for a float and a list for a tuple, because JSON and YAML write them so.

    Raises:
        TypeError: ``value`` has another type, or ``annotation`` is not a type of plain JSON; the
            message is the expected type.
        ValueError: ``value`` is not among the values of a ``Literal``; the message lists them.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _conform_to_one(value, args)
    if origin is Literal and not isinstance(value, str):
        words = [arg for arg in args if isinstance(arg, str) and arg.lower() in _words(value)]
        if len(words) == 1 and value not in args:
            return words[0]
    if origin is Literal and type(value) in map(type, args):
        if not any(type(value) is type(arg) and value == arg for arg in args):
            raise ValueError(" or ".join(map(repr, args)))
        return value
    if origin is list and isinstance(value, list):
        return [conform(item, args[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return {conform(k, args[0]): conform(v, args[1]) for k, v in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = (args[0],) * len(value) if args[-1] is Ellipsis else args
        if len(kinds) == len(value):
            return tuple(conform(item, kind) for item, kind in zip(value, kinds, strict=True))
    if annotation in (int, float) and isinstance(value, int) and not isinstance(value, bool):
        return value
    if annotation in (bool, float, str, NoneType) and isinstance(value, annotation):
        return value
    raise TypeError(inspect.formatannotation(annotation))


def _words(value: Any) -> set[str]:
    """Return the lower-case words that YAML reads as ``value``, such as 4.57, no and null."""
    if value is None:
        return {"null", "~"}
    if isinstance(value, bool):
        return {"true", "yes", "on"} if value else {"false", "no", "off"}
    return {str(value)} if isinstance(value, int | float) else set()


def _conform_to_one(value: Any, members: tuple[Any, ...]) -> Any:
    errors: list[str] = []
    for member in members:
        try:
            return conform(value, member)
        except ValueError as error:
            errors.append(str(error))
        except TypeError:
            continue
    raise ValueError(errors[0]) if errors else TypeError("no member of the union fits")


def _conform_option(label: str, name: str, value: Any, option: Option) -> Any:
    try:
        return conform(value, option.annotation)
    except ValueError as error:
        raise ValueError(f"{label}: expected {name} to be {error}, got {value!r}") from None
    except TypeError:
        allowed = inspect.formatannotation(option.annotation)
        kind = type(value).__name__
        raise TypeError(
            f"{label}: expected {name} to be {allowed}, got {value!r} ({kind})"
        ) from None


def _option(where: str, field: Field[Any], annotation: Any) -> Option:
    if field.name == "name":
        raise TypeError(f"{where}: rename the option 'name', which stands for the part's name")
    factory = field.default_factory
    default = field.default if factory is MISSING else factory()
    if default is MISSING or not field.init:
        raise TypeError(f"{where}: option {field.name!r} needs a default and init=True")
    try:
        return Option(annotation, conform(default, annotation))
    except (TypeError, ValueError):
        allowed = inspect.formatannotation(annotation)
        raise TypeError(
            f"{where}: expected the default of {field.name} to be {allowed}, got {default!r}; "
            f"options are plain JSON: {PLAIN}"
        ) from None
