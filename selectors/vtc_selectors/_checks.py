"""The checks that all selectors make."""

from __future__ import annotations

from torch import Tensor

from vtc.interfaces.part import require


def require_keyframes(keyframes: object) -> None:
    """Raise ValueError unless K, the keyframes asked for, is a whole number of at least 1."""
    ok = type(keyframes) is int and keyframes >= 1
    require(ok, "keyframes", keyframes, "a whole number of at least 1")


def is_number_in(value: object, low: float, high: float) -> bool:
    """Whether an option is a number in [low, high]; True, False and NaN are not."""
    return isinstance(value, int | float) and type(value) is not bool and low <= value <= high


def check_embeddings(selector: str, embeddings: Tensor) -> None:
    """Raise ValueError unless embeddings are ``[N, d]`` with N >= 1; d may be 0."""
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(
            f"selector '{selector}': embeddings are {list(embeddings.shape)}; "
            "allowed is [N, d], one row a frame, N >= 1"
        )
