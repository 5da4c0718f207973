"""Track whether a wrapped ``generate`` is running, which passes encoded videos to ``forward``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Generation:
    """A running ``generate``: the model, and the position offsets of its prompt if it has any."""

    model: Any
    offsets: Tensor | None = None


_generation: ContextVar[Generation | None] = ContextVar("vtc_generation", default=None)


def running_generation() -> Generation | None:
    """Return the ``generate`` that runs in this context."""
    return _generation.get()


def is_generating(model: Any) -> bool:
    """Return whether a ``generate`` of a model runs in this context."""
    generation = _generation.get()
    return generation is not None and generation.model is model


@contextmanager
def generating(model: Any) -> Iterator[Generation]:
    """Mark a ``generate`` of a model as running."""
    generation = Generation(model)
    token = _generation.set(generation)
    try:
        yield generation
    finally:
        _generation.reset(token)


@contextmanager
def outside_generation() -> Iterator[None]:
    """Run a callback of ``generate``; its calls of the model count as separate calls."""
    token = _generation.set(None)
    try:
        yield
    finally:
        _generation.reset(token)
