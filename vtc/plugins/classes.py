"""Import the class that a plug-in registered under a name, and check it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from vtc.interfaces.part import PASS
from vtc.plugins.discovery import Claim, cause

INTERFACES = {
    "adapter": "vtc.interfaces.video_adapter:VideoAdapter",
    "budget": "vtc.interfaces.token_budget:TokenBudget",
    "merger": "vtc.interfaces.token_merger:TokenMerger",
    "selector": "vtc.interfaces.frame_selector:FrameSelector",
}
"""The base class of each kind of part."""


def load_class(claim: Claim) -> type:
    """Import the class of a part and check that it implements the interface of its kind.

    Raises:
        ImportError: The module cannot be imported or lacks the class.
        TypeError: The class is not a concrete subclass of the interface.
    """
    target = load_target(claim)
    interface = interface_of(claim.kind)
    if not (isinstance(target, type) and issubclass(target, interface)):
        raise TypeError(f"{claim}: {claim.target} must be a subclass of vtc.{interface.__name__}")
    if missing := sorted(getattr(target, "__abstractmethods__", ())):
        raise TypeError(f"{claim}: {claim.target} must define {', '.join(missing)}")
    return target


def load_target(claim: Claim) -> Any:
    """Import the class or function that a plug-in registered by string.

    Raises:
        ImportError: The module cannot be imported or lacks the name.
    """
    if not isinstance(claim.target, str):
        return claim.target
    module, _, name = claim.target.partition(":")
    try:
        return getattr(import_module(module), name)
    except PASS:
        raise
    # Third-party code may raise anything, and sys.exit() must not end the program.
    except BaseException as error:
        raise ImportError(f"{claim}: cannot load {claim.target}: {cause(error)}") from error


def interface_of(kind: str) -> type:
    """Return the base class of a kind of part."""
    module, _, name = INTERFACES[kind].partition(":")
    return cast(type, getattr(import_module(module), name))
