"""How a check of a contract fails: in one sentence, without a traceback.

It says what the part did, what is demanded, and where to read on. An exception of the part itself
keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import pytest
import torch
from torch import Tensor

from vtc.plugins.discovery import cause

PURITY = "(Purity, docs/plugins.md)"
"""Where a sentence sends an author whose part is not pure."""


def fail(sentence: str) -> NoReturn:
    """End a check: the sentence says it all, and the suite's own lines would hide it."""
    raise pytest.fail.Exception(sentence, pytrace=False) from None


def demand(holds: bool, sentence: str) -> None:
    """End a check with a sentence unless what it demands holds."""
    if not holds:
        fail(sentence)


@contextmanager
def refused(what: str, *, word: str = "", error: type[Exception] = ValueError) -> Iterator[None]:
    """Demand that the part refuses something.

    Args:
        what: What it is given, as the start of a sentence.
        word: What the message of the error must hold.
        error: The type of the error.
    """
    wanted = f"{what} must be refused with a {error.__name__}"
    if word:
        wanted += f" that says {word!r}"
    try:
        yield
    except error as raised:
        demand(word in str(raised), f"{wanted}, got {cause(raised)}")
    except Exception as raised:  # a third party's code may raise anything
        fail(f"{wanted}, got {cause(raised)}")
    else:
        fail(f"{wanted}, but no error was raised")


Args = Sequence[Tensor | None]


def demand_untouched(method: str, names: str, after: Args, before: Args) -> None:
    """The arguments of a call must hold what they held before it.

    Args:
        method: What was called.
        names: The arguments' names, separated by spaces.
        after, before: Tensors of any shape, or None, one for each name.
    """
    for name, now, then in zip(names.split(), after, before, strict=True):
        if now is not None and then is not None and not torch.equal(now, then):
            fail(
                f"{method} changed its argument {name} in place; inputs stay as they are: write "
                f"y = x * 2, not x.mul_(2) {PURITY}"
            )


def listed(numbers: Tensor) -> str:
    """Up to five of the numbers ``[n]``: ``[0, 1, 2, 3, 4] and 7 more``."""
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"{numbers[:5].tolist()}{more}"


def demand_device(name: str, result: Tensor, device: torch.device) -> None:
    """A result must be where the inputs are."""
    demand(
        result.device == device,
        f"{name} must be on the inputs' device, {device}, got {result.device}",
    )
