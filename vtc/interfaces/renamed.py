"""Deprecation warnings for old names, which keep working for one version."""

from __future__ import annotations

import sys
import warnings

_LIBRARIES = (
    *("vtc", "vtc_selectors", "vtc_mergers", "vtc_adapters", "vtc_recipes"),
    *("torch", "transformers", "peft", "accelerate", "typer", "click", "pydantic", "abc"),
)


def warn_renamed(old: str, new: str) -> None:
    """Warn, at the line of the user's code, that a name is deprecated.

    Args:
        old: The old name, as the user wrote it.
        new: The new name.
    """
    message = f"{old} is deprecated and goes in the next version; use {new}"
    warnings.warn(message, DeprecationWarning, stacklevel=depth_of_caller())


def depth_of_caller() -> int:
    """Return the ``stacklevel`` of the first caller that is not in a library."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            break
        depth, frame = depth + 1, frame.f_back
    return depth
