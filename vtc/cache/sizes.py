"""Sizes as text."""

from __future__ import annotations

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size_text(size: int) -> str:
    """Return a size as text: ``1.23 MB`` for 1234567."""
    unit = [name for name in UNITS if size >= UNITS[name] or name == "B"][-1]
    return f"{size / UNITS[unit]:.3g} {unit}"
