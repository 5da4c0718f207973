"""What selectors and mergers have in common: options in a frozen ``Config`` dataclass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar


class Part:
    """A plug-in object made from its options.

    A part with options declares a nested, frozen, keyword-only dataclass ``Config`` of plain JSON
    values and finds the options it was made with in ``self.config``. A part without ``Config``
    takes no options and its ``config`` is None.
    """

    Config: ClassVar[type | None] = None
    config: Any = None
    renamed_options: ClassVar[Mapping[str, str]] = {}
    """Old names of options, each with the present one; the old ones work, with a warning."""

    source: ClassVar[str] = ""
    """Where the method comes from: paper, venue, year."""
    macs: str = ""
    """Multiply-accumulates per frame beyond the vision tower and the frame encoder, an expression
    as `vtc.interfaces.costs.evaluate` reads it; leading terms only. ``""``: not said."""
    extra_memory: str = ""
    """Numbers held at once beside inputs and outputs, likewise."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        if config is None and self.Config is not None:
            config = self.Config()
        self.config = config


@contextmanager
def part_errors(label: str) -> Iterator[None]:
    """Name the part in whose code something broke that is no error of its user's.

    Raises:
        RuntimeError: Instead of an error that only a mistake in the part's code explains.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, NameError) as error:
        raise RuntimeError(f"{label} failed: {type(error).__name__}: {error}") from error


def require(ok: bool, option: str, value: object, allowed: str) -> None:
    """Raise the ValueError of a ``Config.__post_init__`` that found ``value`` out of range.

    >>> require(False, "keyframes", 0, "a whole number of at least 1")
    Traceback (most recent call last):
    ...
    ValueError: expected keyframes to be a whole number of at least 1, got 0
    """
    if not ok:
        raise ValueError(f"expected {option} to be {allowed}, got {value!r}")
