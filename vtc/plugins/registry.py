"""Make and list the parts that installed plug-ins register."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, cast

from vtc.interfaces.part import PASS
from vtc.plugins.classes import INTERFACES, interface_of, load_class, load_target
from vtc.plugins.discovery import (
    DISABLED_VARIABLE,
    Claim,
    Plugin,
    cause,
    disabled_names,
    load_plugins,
    suggestion,
)
from vtc.plugins.options import config_values, make, options_of

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import FrameSelector
    from vtc.interfaces.token_budget import TokenBudget
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.interfaces.video_adapter import VideoAdapter

KINDS = (*INTERFACES, "plug-in")


@dataclass(frozen=True)
class PartInfo:
    """A part as `parts` lists it.

    Attributes:
        kind: ``"selector"``, ``"merger"``, ``"budget"``, ``"adapter"``, or ``"plug-in"`` for a
            skipped plug-in.
        name: The name that users type; for an adapter, the model's ``config.model_type``.
        plugin: The name of the plug-in's entry point.
        distribution: The name for ``pip install`` and ``pip uninstall``.
        version: The distribution's version.
        summary: The first line of the class's docstring, its own or inherited.
        options: Defaults by option name.
        error: Why the part cannot be used; None if it can.
    """

    kind: str
    name: str
    plugin: str
    distribution: str
    version: str
    summary: str
    options: dict[str, Any]
    error: str | None = None


class Registry:
    """Parts by kind and name. The first access loads the plug-ins, once."""

    def __init__(self) -> None:
        self._plugins: list[Plugin] | None = None

    @property
    def plugins(self) -> list[Plugin]:
        """Every installed plug-in; the first access warns about broken ones."""
        if self._plugins is None:
            self._plugins = load_plugins()
            self._warn_of_broken(self._plugins)
        return self._plugins

    def get_class(self, kind: str, name: str) -> type:
        """Return the class of a part; import it if the plug-in gave its name as a string.

        Raises:
            ValueError: No plug-in registers ``name``, or more than one does.
            ImportError: The class cannot be imported.
            TypeError: The class does not implement the interface of its kind.
        """
        if not isinstance(name, str):
            raise TypeError(f"expected the name of the {kind} to be a str, got {name!r}")
        return load_class(self._claim(kind, name))

    def make(self, kind: str, name: str, options: Mapping[str, Any]) -> Any:
        """Make a part by its name; see `selector`."""
        cls = self.get_class(kind, name)
        return make(cls, f"{kind} {name!r}", options, str(self._claim(kind, name).plugin))

    def build(self, kind: str, spec: object) -> Any:
        """See `build_part`."""
        if isinstance(spec, str):
            return self.make(kind, spec, {})
        if isinstance(spec, Mapping):
            if "name" not in spec:
                raise ValueError(
                    f"{kind} {dict(spec)!r} has no name; write {{'name': ..., **options}} with "
                    f"a name among: {self._listed(kind)}"
                )
            options = {key: value for key, value in spec.items() if key != "name"}
            return self.make(kind, spec["name"], options)
        interface = interface_of(kind)
        if isinstance(spec, interface):
            return spec
        value = f"the class {spec.__qualname__}" if isinstance(spec, type) else repr(spec)
        raise TypeError(
            f"expected {kind} to be a name ({self._listed(kind)}), a mapping "
            f"{{'name': ..., **options}} or an instance of vtc.{interface.__name__}, got {value}"
        )

    def spec_of(self, part: object) -> dict[str, Any]:
        """See `spec_of`."""
        cls = type(part)
        for claim in self._claims():
            if _names(claim, cls):
                # Raises if another plug-in registers the name too: it could not be loaded again.
                self._claim(claim.kind, claim.name)
                return {"name": claim.name, **config_values(part)}
        raise ValueError(
            f"{cls.__module__}.{cls.__qualname__} is not registered, so it cannot be saved by "
            "name; return it from a vtc_register_* hook of a plug-in (see vtc.hookimpl)"
        )

    def label_of(self, kind: str, cls: type) -> str:
        """See `label_of`."""
        claims = (claim for claim in self._claims() if claim.kind == kind and _names(claim, cls))
        return str(next(claims, f"{kind} {cls.__qualname__!r}"))

    def names(self, cls: type) -> bool:
        """Return whether a plug-in registers this class itself."""
        return any(_names(claim, cls) for claim in self._claims())

    def parts(self, kind: str | None = None) -> list[PartInfo]:
        """See `parts`."""
        if kind is not None and kind not in KINDS:
            raise ValueError(
                f"expected kind to be one of {', '.join(map(repr, KINDS))} or None, got {kind!r}"
            )
        kinds = INTERFACES if kind is None else (kind,)
        infos = [self._info(claim) for claim in self._claims() if claim.kind in kinds]
        if kind in (None, "plug-in"):
            infos += [_skipped(plugin) for plugin in self.plugins if plugin.error]
        return sorted(infos, key=lambda i: (i.kind, i.name, i.plugin, i.distribution))

    def commands(self) -> dict[str, list[Claim]]:
        """See `commands`."""
        claims: dict[str, list[Claim]] = {}
        for claim in self._claims():
            if claim.kind == "command":
                claims.setdefault(claim.name, []).append(claim)
        return claims

    def model_function(self, name: str) -> Callable[..., Any] | None:
        """See `model_function`."""
        if not any(claim.kind == "model" and claim.name == name for claim in self._claims()):
            return None
        function: Callable[..., Any] = load_target(self._claim("model", name))
        return function

    def _claims(self) -> Iterator[Claim]:
        return (claim for plugin in self.plugins for claim in plugin.claims)

    def _claim(self, kind: str, name: str) -> Claim:
        claims = [c for c in self._claims() if (c.kind, c.name) == (kind, name)]
        if len(claims) == 1:
            return claims[0]
        if claims:
            raise ValueError(
                f"{kind} {name!r} is registered by {' and by '.join(str(c.plugin) for c in claims)}"
                f"; uninstall one, or disable one with {DISABLED_VARIABLE}=NAME"
            )
        raise ValueError(self._unknown(kind, name))

    def _listed(self, kind: str) -> str:
        names = {claim.name for claim in self._claims() if claim.kind == kind}
        return ", ".join(sorted(names)) or "none"

    def _unknown(self, kind: str, name: str) -> str:
        listed = self._listed(kind)
        guess = suggestion(name, listed.split(", "))
        if kind == "adapter":
            start = f"no adapter for model_type {name!r}; supported: {listed}.{guess}"
            start += " To write one, see docs/adapters.md."
        else:
            start = f"unknown {kind} {name!r}; known: {listed}.{guess}"
        skipped = [f"{plugin.name} ({plugin.error})" for plugin in self.plugins if plugin.error]
        return f"{start} Skipped plug-ins: {', '.join(skipped)}." if skipped else start

    def _info(self, claim: Claim) -> PartInfo:
        summary, error = "", None
        options: dict[str, Any] = {}
        try:
            cls = load_class(self._claim(claim.kind, claim.name))
            options = {name: option.default for name, option in options_of(cls).items()}
            summary = _summary(cls, interface_of(claim.kind))
        except PASS:
            raise
        except (ImportError, TypeError, ValueError) as problem:
            error = str(problem).removeprefix(f"{claim}: ")
        # Third-party code may raise anything: a metaclass, or the factory of a default.
        except BaseException as problem:
            error = cause(problem)
        plugin = claim.plugin
        return PartInfo(
            claim.kind,
            claim.name,
            plugin.name,
            plugin.distribution,
            plugin.version,
            summary,
            options,
            error,
        )

    @staticmethod
    def _warn_of_broken(plugins: list[Plugin]) -> None:
        disabled = disabled_names()
        for plugin in plugins:
            if plugin.error and plugin.name not in disabled:
                message = f"{plugin} is skipped: {plugin.target}: {plugin.error}"
                warnings.warn(message, UserWarning, stacklevel=2)
        for name in sorted(disabled - {plugin.name for plugin in plugins}):
            message = f"{DISABLED_VARIABLE}: {_no_plugin(name, plugins)}"
            warnings.warn(message, UserWarning, stacklevel=2)


def selector(name: str, /, **options: Any) -> FrameSelector:
    """Make a frame selector by its registered name.

    >>> vtc.selector("dks", keyframes=16).config.keyframes
    16

    Raises:
        ValueError: The name or an option is unknown, or a value is out of range.
        TypeError: A value has the wrong type.
        ImportError: The selector's module cannot be imported.
        RuntimeError: The selector's own code raised any other exception.
    """
    return cast("FrameSelector", _registry.make("selector", name, options))


def merger(name: str, /, **options: Any) -> TokenMerger:
    """Make a token merger by its registered name; same errors as `selector`."""
    return cast("TokenMerger", _registry.make("merger", name, options))


def budget(name: str, /, **options: Any) -> TokenBudget:
    """Make a token budget by its registered name; same errors as `selector`.

    >>> vtc.budget("even", max_tokens=8192).max_tokens
    8192
    """
    return cast("TokenBudget", _registry.make("budget", name, options))


def build_budget(spec: object) -> TokenBudget | None:
    """Make a token budget from what ``vtc.wrap`` takes.

    Args:
        spec: None; a number of tokens or ``"auto"``, for ``even``; or a spec for `build_part`.

    Raises:
        ValueError, TypeError, ImportError, RuntimeError: As for `selector`.
    """
    if spec is None:
        return None
    if type(spec) is int or spec == "auto":
        return budget("even", max_tokens=spec)
    return cast("TokenBudget", build_part("budget", spec))


def parts(kind: str | None = None) -> list[PartInfo]:
    """List the parts of all installed plug-ins, including broken parts and skipped plug-ins.

    Args:
        kind: ``"selector"``, ``"merger"``, ``"budget"``, ``"adapter"`` or ``"plug-in"``; None for
            all.

    Returns:
        The parts, sorted by kind and name. This imports them all, which takes a few seconds.

    Raises:
        ValueError: ``kind`` is unknown.
    """
    return _registry.parts(kind)


def commands() -> dict[str, list[Claim]]:
    """Return the claims of each command name; more than one claim is a conflict."""
    return _registry.commands()


def model_function(name: str) -> Callable[..., Any] | None:
    """Return the function that makes a registered model; None if no plug-in registers the name.

    Raises:
        ValueError: More than one plug-in registers the name.
        ImportError: The function's module cannot be imported.
    """
    return _registry.model_function(name)


def build_part(kind: str, spec: object) -> Any:
    """Make a part from a name, a mapping or an instance.

    Args:
        kind: ``"selector"``, ``"merger"`` or ``"budget"``.
        spec: A name; a mapping ``{"name": "dks", "keyframes": 16}``; or an instance, which is
            returned unchanged.

    Raises:
        ValueError, TypeError, ImportError, RuntimeError: As for `selector`; TypeError also for a
            spec of another type.
    """
    return _registry.build(kind, spec)


def spec_of(part: object) -> dict[str, Any]:
    """Return the mapping from which `build_part` makes an equal part: ``{"name": ..., **options}``.

    Raises:
        ValueError: No plug-in registers the part's class.
        TypeError: The part does not keep its options in ``config``.
    """
    return _registry.spec_of(part)


def is_registered(part: object) -> bool:
    """Return whether a plug-in registers the part's class, so that `spec_of` works."""
    return _registry.names(type(part))


def adapter_for(model_type: str) -> VideoAdapter:
    """Make the adapter of a model family.

    Args:
        model_type: The model's ``config.model_type``, such as ``"llava_onevision"``.

    Raises:
        ValueError: No plug-in supports it, or more than one does.
        ImportError: The adapter's module cannot be imported.
    """
    return cast("VideoAdapter", _registry.make("adapter", model_type, {}))


def label_of(kind: str, part: object) -> str:
    """Return the label of a part in messages: ``selector 'mine' of plug-in 'acme' (acme 1.0)``.

    The label of a part whose class is not registered is the class's name.
    """
    return _registry.label_of(kind, type(part))


def _summary(cls: type, interface: type) -> str:
    """Return the first line of a class's docstring, its own or inherited from another part."""
    docs = (c.__doc__ for c in cls.__mro__ if c not in interface.__mro__)
    return next((cleandoc(doc) for doc in docs if isinstance(doc, str)), "").partition("\n")[0]


def _names(claim: Claim, cls: type) -> bool:
    """Return whether a claim is for this class, without importing anything."""
    if isinstance(claim.target, type):
        return claim.target is cls
    module, _, name = claim.target.partition(":")
    return getattr(sys.modules.get(module), name, None) is cls


def _no_plugin(name: str, plugins: list[Plugin]) -> str:
    """Return a message that ``name`` disables no plug-in, with a suggestion."""
    if plugin_names := sorted({p.name for p in plugins if p.distribution == name}):
        hint = " or ".join(map(repr, plugin_names))
        return f"{name!r} is a distribution, not a plug-in. Did you mean {hint}?"
    names = sorted({p.name for p in plugins})
    listed = ", ".join(names) or "none"
    return f"no plug-in {name!r} is installed; installed: {listed}.{suggestion(name, names)}"


def _skipped(plugin: Plugin) -> PartInfo:
    identity = (plugin.name, plugin.name, plugin.distribution, plugin.version)
    return PartInfo("plug-in", *identity, summary="", options={}, error=plugin.error)


_registry = Registry()
