"""Find the installed plug-ins: walk the entry points of the group ``vtc``.

pluggy's ``load_setuptools_entrypoints`` is not used: one broken plug-in would stop all others, a
second plug-in of the same entry-point name would be dropped silently, and a misspelt hook would
load silently. Here each plug-in has its own plug-in manager, so that none affects another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from inspect import isroutine
from typing import Any

import pluggy

from vtc.interfaces.part import PASS
from vtc.plugins import hookspecs

DISABLED_VARIABLE = "VTC_DISABLED_PLUGINS"
"""Environment variable: comma-separated entry-point names of plug-ins to disable."""

_HOOKS = {
    "vtc_register_selectors": "selector",
    "vtc_register_mergers": "merger",
    "vtc_register_budgets": "budget",
    "vtc_register_adapters": "adapter",
    "vtc_register_commands": "command",
    "vtc_register_models": "model",
}
_FUNCTION_HOOKS = ("vtc_register_commands", "vtc_register_models")
_NAME = re.compile(r"[^\W_][\w.-]*")
"""Letters and digits of any script, ``_``, ``.`` and ``-``; the first is a letter or a digit."""
_CLASS_STRING = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Plugin:
    """An installed plug-in, whether it works or not.

    Attributes:
        name: The entry point's name, not necessarily unique.
        target: The entry point's value, a module or ``module:object``.
        distribution: The distribution that provides it.
        version: The distribution's version.
        error: Why the plug-in is skipped; None if it is used.
        claims: The parts, commands and models that it registers; empty if it is skipped.
    """

    name: str
    target: str
    distribution: str
    version: str
    error: str | None = None
    claims: tuple[Claim, ...] = ()

    def __str__(self) -> str:
        return f"plug-in {self.name!r} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Claim:
    """One name that a plug-in registers: a part, command or model."""

    kind: str
    name: str
    target: type | str
    plugin: Plugin = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.plugin}"


def load_plugins() -> list[Plugin]:
    """Load every installed plug-in, sorted by name and distribution; broken ones have ``error``."""
    disabled = disabled_names()
    plugins = {(p.name, p.distribution, p.target): (p, point) for p, point in _installed()}
    return [_load(*plugins[key], disabled=key[0] in disabled) for key in sorted(plugins)]


def disabled_names() -> set[str]:
    """Return the entry-point names in ``VTC_DISABLED_PLUGINS``."""
    names = os.environ.get(DISABLED_VARIABLE, "").split(",")
    return {name.strip() for name in names if name.strip()}


def cause(error: BaseException) -> str:
    """Return an exception in one line: ``ModuleNotFoundError: No module named 'acme'``."""
    try:
        message = " ".join(str(error).split())
    except PASS:
        raise
    except BaseException as second:  # from the __str__ of a third party's exception
        message = f"its message raised {type(second).__name__}"
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def suggestion(name: str, known: list[str]) -> str:
    """Return ``" Did you mean 'dks'?"``, or ``""`` if no known name is similar."""
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _installed() -> Iterator[tuple[Plugin, EntryPoint]]:
    for point in entry_points(group="vtc"):
        distribution = point.dist
        name = distribution.name if distribution else "unknown distribution"
        version = distribution.version if distribution else "?"
        yield Plugin(point.name, point.value, name, version), point


def _load(plugin: Plugin, point: EntryPoint, disabled: bool) -> Plugin:
    identity = (plugin.name, plugin.target, plugin.distribution, plugin.version)
    if disabled:
        return Plugin(*identity, error=f"disabled by {DISABLED_VARIABLE}")
    try:
        return Plugin(*identity, claims=tuple(_claims(plugin, point.load())))
    except PASS:
        raise
    # Third-party code may raise anything, BaseExceptions of its own included. A plug-in that calls
    # sys.exit() must not end the program.
    except BaseException as error:
        return Plugin(*identity, error=cause(error))


def _claims(plugin: Plugin, module: Any) -> Iterator[Claim]:
    """Call the hooks of one plug-in and check the results."""
    manager = pluggy.PluginManager("vtc")
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    if unmarked := _unmarked(manager, module):
        raise ValueError(f"these functions need @vtc.hookimpl: {', '.join(unmarked)}")
    callers = manager.get_hookcallers(module) or []
    if not callers:
        raise ValueError(f"it has no hook; mark one of {', '.join(_HOOKS)} with @vtc.hookimpl")
    for caller in callers:
        # Call the functions directly: the manager ignores a hook that returns None.
        for implementation in caller.get_hookimpls():
            if caller.has_spec():
                parts = _checked(caller.name, implementation.function())
                kind = _HOOKS[caller.name]
                yield from (Claim(kind, name, parts[name], plugin) for name in parts)
            elif not implementation.optionalhook:
                hooks = ", ".join(_HOOKS)
                hint = suggestion(caller.name, list(_HOOKS))
                raise ValueError(f"unknown hook {caller.name!r}; hooks: {hooks}.{hint}")


def _unmarked(manager: pluggy.PluginManager, module: Any) -> list[str]:
    """Return functions with a hook's name but no marker, which pluggy would ignore."""
    return [
        name
        for name in dir(module)
        if name.startswith("vtc_register_")
        and isroutine(getattr(module, name))
        and manager.parse_hookimpl_opts(module, name) is None
    ]


def _checked(hook: str, parts: object) -> Mapping[str, type | str]:
    if not isinstance(parts, Mapping):
        raise TypeError(
            f"expected {hook} to return a mapping from names to classes, got {type(parts).__name__}"
        )
    for name, target in parts.items():
        if not isinstance(name, str):
            raise TypeError(f"{hook}: expected names of type str, got {name!r}")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{hook}: expected names of letters, digits, '_', '.' and '-' that begin with a "
                f"letter or digit, got {name!r}"
            )
        if isinstance(target, str):
            if not _CLASS_STRING.fullmatch(target):
                form = "module:function" if hook in _FUNCTION_HOOKS else "module:Class"
                raise ValueError(f"{hook}: expected {name!r} to be {form!r}, got {target!r}")
        elif hook in _FUNCTION_HOOKS:
            raise TypeError(f"{hook}: expected {name!r} to be 'module:function', got {target!r}")
        elif not isinstance(target, type):
            raise TypeError(
                f"{hook}: expected {name!r} to be a class or 'module:Class', got {target!r}"
            )
    return parts
