"""The base class of parts: options in a frozen ``Config`` dataclass, and costs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from vtc.interfaces.costs import Sizes

FLOAT32_TINY, FLOAT32_MAX = 1.1754943508222875e-38, 3.4028234663852886e38
"""The smallest normal and the largest float32, between which positive options must lie."""

PASS = (KeyboardInterrupt, MemoryError)
"""Exceptions that always propagate, even from third-party code."""


class Part:
    """A plug-in object made from its options.

    A part with options declares a nested, frozen, keyword-only dataclass ``Config`` of plain JSON
    values and reads its options from ``self.config``. A part without ``Config`` takes no options,
    and its ``config`` is None.
    """

    Config: ClassVar[type | None] = None
    config: Any = None

    source: ClassVar[str] = ""
    """Where the method comes from: paper, venue, year."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        if config is None and self.Config is not None:
            config = self.Config()
        self.config = config

    def macs(self, sizes: Sizes) -> float | None:
        """Return the multiply-accumulates per frame, leading terms only; None if unknown.

        The vision tower and the frame encoder do not count.
        """
        return None

    def extra_memory(self, sizes: Sizes) -> float | None:
        """Return the peak count of numbers besides inputs and outputs; None if unknown."""
        return None


@contextmanager
def part_errors(label: str, plugin: str = "") -> Iterator[None]:
    """Add the name of a part to the errors that its code raises.

    Args:
        label: The part: ``selector 'mine' of plug-in 'acme' (acme-vtc 1.0)``.
        plugin: The plug-in, if only the message of a RuntimeError should name it.

    Raises:
        ValueError, TypeError: The part raised one; the label is put in front of the message.
        RuntimeError: The part raised any other exception. Out-of-memory errors, Ctrl-C and
            ``sys.exit`` propagate unchanged.
    """
    try:
        yield
    except (SystemExit, GeneratorExit, *PASS):  # GeneratorExit: a generator was closed
        raise
    except (ValueError, TypeError) as error:
        if label.partition(" of ")[0] in str(error):
            raise
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{label}: {error}") from error
    # A part is third-party code, which may raise anything, BaseExceptions of its own included.
    except BaseException as error:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        where = f"{label} of {plugin}" if plugin else label
        raise RuntimeError(f"{where} failed: {type(error).__name__}: {error}") from error


def require(ok: bool, option: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names an option of a ``Config`` unless ``ok``.

    >>> require(False, "keyframes", 0, "a whole number of at least 1")
    Traceback (most recent call last):
    ...
    ValueError: expected keyframes to be a whole number of at least 1, got 0
    """
    if not ok:
        raise ValueError(f"expected {option} to be {allowed}, got {value!r}")


def require_whole(option: str, value: object, least: int = 1) -> None:
    """Raise a ValueError unless an option is a whole number from ``least`` to 2**31 - 1."""
    ok = type(value) is int and value >= least
    require(ok, option, value, f"a whole number of at least {least}")
    require(value < 2**31, option, value, "a whole number below 2**31")  # type: ignore[operator]


def require_number(option: str, value: object, low: float, high: float) -> None:
    """Raise a ValueError unless an option is a number in [low, high]; NaN and bools are not."""
    ok = isinstance(value, int | float) and type(value) is not bool and low <= value <= high
    require(ok, option, value, f"a number in [{low:.4g}, {high:.4g}]")
