"""Failures of contract checks: one sentence without a traceback.

The sentence says what the part did, what is expected, and where to read more. An exception that
the part itself raises keeps its traceback.
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
"""The reference at the end of messages about parts that are not pure."""


def fail(sentence: str) -> NoReturn:
    """Fail a check without a traceback, which would only show the suite's code."""
    raise pytest.fail.Exception(sentence, pytrace=False) from None


def demand(holds: bool, sentence: str) -> None:
    """Fail a check with a sentence unless the condition holds."""
    if not holds:
        fail(sentence)


@contextmanager
def refused(what: str, *, word: str = "", error: type[Exception] = ValueError) -> Iterator[None]:
    """Demand that the part raises an error.

    Args:
        what: The input, as the start of a sentence.
        word: A word that the message must contain.
        error: The type of the error.
    """
    expected = f"{what} must raise a {error.__name__}"
    if word:
        expected += f" that says {word!r}"
    try:
        yield
    except error as exception:
        demand(word in str(exception), f"{expected}, got {cause(exception)}")
    except Exception as exception:  # third-party code may raise anything
        fail(f"{expected}, got {cause(exception)}")
    else:
        fail(f"{expected}, but raised nothing")


Args = Sequence[Tensor | None]


def demand_untouched(method: str, names: str, after: Args, before: Args) -> None:
    """Demand that a call does not modify its arguments.

    Args:
        method: The name of the method.
        names: The arguments' names, separated by spaces.
        after, before: Tensors of any shape, or None, one for each name.
    """
    for name, now, then in zip(names.split(), after, before, strict=True):
        if now is not None and then is not None and not torch.equal(now, then):
            fail(
                f"{method} modified its argument {name} in place; write y = x * 2, not x.mul_(2) "
                f"{PURITY}"
            )


def listed(numbers: Tensor) -> str:
    """Format up to five of the numbers ``[n]``: ``[0, 1, 2, 3, 4] and 7 more``."""
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"{numbers[:5].tolist()}{more}"


def demand_device(name: str, result: Tensor, device: torch.device) -> None:
    """Demand that a result is on the device of the inputs."""
    demand(
        result.device == device,
        f"{name} must be on the inputs' device, {device}, got {result.device}",
    )


def demand_equal(
    one: list[Tensor], other: list[Tensor], sentence: str, tolerance: float = 0.0
) -> None:
    """Demand that tokens ``[T_i, D]`` of the same frames are equal; fail with ``sentence``."""
    for n, (a, b) in enumerate(zip(one, other, strict=True)):
        if a.shape != b.shape:
            fail(f"{sentence}: frame {n} has {len(a)} and {len(b)} tokens")
        near = torch.isclose(a, b, rtol=tolerance, atol=tolerance)
        if not near.all():
            difference = (a - b)[~near].abs().max()
            fail(f"{sentence}: frame {n} differs by up to {difference:.3g}")


def kinds(tokens: object) -> str:
    """Return the types of a wrong result, for messages: ``a list of ndarray``."""
    if not isinstance(tokens, list):
        return type(tokens).__name__
    return "a list of " + ", ".join(sorted({type(token).__name__ for token in tokens}))
