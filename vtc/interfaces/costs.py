"""The sizes that the cost methods of parts take."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtc.interfaces.part import Part


def _size(default: float, meaning: str) -> float:
    size: float = field(default=default, metadata={"meaning": meaning})
    return size


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a call; by default an hour at 1 frame/s for LLaVA-OneVision-7B.

    Attributes:
        N: Frames of the video.
        d: Width of a frame embedding.
        n: Frames merged in one call.
        M: Patches of a frame.
        D: Width of a patch.
        Dq: Width of the query that a merger gets.

    Raises:
        ValueError: A size is not above 0.
    """

    N: float = _size(3600, "frames of the video")
    d: float = _size(512, "width of a frame embedding")
    n: float = _size(16, "frames merged in one call")
    M: float = _size(729, "patches of a frame")
    D: float = _size(3584, "width of a patch")
    Dq: float = _size(512, "width of the query")

    def __post_init__(self) -> None:
        for size in fields(self):
            if not getattr(self, size.name) > 0:
                value = getattr(self, size.name)
                raise ValueError(f"expected {size.name} to be a number above 0, got {value!r}")


def cost(part: Part, name: str, sizes: Sizes) -> float | None:
    """Return ``part.macs(sizes)`` or ``part.extra_memory(sizes)``; None if unknown.

    In the first version a cost was an expression in a string. Such a string is ignored with a
    DeprecationWarning.
    """
    method = getattr(part, name, None)
    if callable(method):
        value: float | None = method(sizes)
        return value
    if method:
        warnings.warn(
            f"{type(part).__qualname__}.{name} = {method!r} is ignored: write a method "
            f"{name}(self, sizes), see docs/plugins.md",
            DeprecationWarning,
            stacklevel=2,
        )
    return None
