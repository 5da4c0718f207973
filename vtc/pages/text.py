"""Text of pages and pictures: times, counts and escaped strings."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

_DIRECTIONS = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F]))


def clock(seconds: float, decimals: int = 0) -> str:
    """Return a time as on a player's clock.

    >>> clock(1065.2), clock(3661), clock(5.25, decimals=1)
    ('17:45', '1:01:01', '0:05.2')
    """
    minutes, rest = divmod(round(seconds, decimals), 60)
    hours, minutes = divmod(int(minutes), 60)
    width = 2 if decimals == 0 else 3 + decimals
    text = f"{rest:0{width}.{decimals}f}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def clock_decimals(times: Sequence[float]) -> int:
    """Return the number of decimals to distinguish the times: 0 for frames a second apart."""
    step = min((b - a for a, b in zip(times, times[1:], strict=False)), default=1.0)
    return 0 if step > 0.9 else 1 if step > 0.09 else 2


def visible(text: str) -> str:
    """Replace control characters, including those that change the text direction."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if c in _DIRECTIONS or not (c.isprintable() or c in "\n\t")
        else c
        for c in text
    )


def escape(text: object) -> str:
    """Escape text for an HTML element or attribute."""
    return html.escape(visible(str(text)), quote=True)


def check_target(path: str | os.PathLike[str], suffix: str, what: str) -> None:
    """Check that a file can be written, before any work is done.

    Args:
        suffix: The required suffix, such as ``".png"``.
        what: The name of the output, for the message.

    Raises:
        ValueError: The suffix differs, or the folder is missing or cannot be written.
    """
    folder = Path(path).resolve().parent
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"expected {what} to end in {suffix}, got {os.fspath(path)!r}")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{what} cannot be written: there is no writable folder {folder}")
