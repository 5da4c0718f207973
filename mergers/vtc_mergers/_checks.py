"""The checks that mergers share."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from vtc.interfaces.part import require


def check_patches(merger: str, patches: Tensor) -> None:
    """Raise unless patches are floating point and ``[n, M, D]`` with M >= 1; n may be 0."""
    if patches.ndim != 3 or patches.shape[1] == 0:
        raise ValueError(
            f"merger '{merger}': patches are {list(patches.shape)}; "
            "allowed is [n, M, D], M >= 1 patch tokens of n frames"
        )
    if not patches.is_floating_point():
        raise TypeError(
            f"merger '{merger}': patches are {patches.dtype}; allowed are floating-point tensors"
        )


def check_reference(merger: str, patches: Tensor, reference: Tensor, has_reference: Tensor) -> None:
    """Raise unless ``reference`` and ``has_reference`` fit patches ``[n, M, D]``."""
    if reference.shape != patches.shape or has_reference.shape != patches.shape[:-2]:
        raise ValueError(
            f"merger '{merger}': patches are {list(patches.shape)}, reference is "
            f"{list(reference.shape)} and has_reference is {list(has_reference.shape)}; "
            "allowed are [n, M, D], [n, M, D] and [n]"
        )
    if has_reference.dtype is not torch.bool:
        raise TypeError(
            f"merger '{merger}': has_reference is {has_reference.dtype}; allowed is torch.bool"
        )


def check_query(
    merger: str, query: Tensor | None, dim: int, source: str, batched: bool = False
) -> Tensor:
    """Return the query; raise unless it is ``[dim]``, or ``[..., dim]`` where it is ``batched``.

    ``source`` is the merger's ``query_source``.
    """
    if query is None:
        raise ValueError(
            f"merger '{merger}' needs a query and got None: ask a question, give vtc_query=... to "
            "generate, or choose a merger that takes none, such as 'mean_pool'"
        )
    if query.shape[-1:] != (dim,) or not (batched or query.ndim == 1):
        raise ValueError(
            f"merger '{merger}': the query is {list(query.shape)}; allowed is [{dim}], "
            f"from the {source.replace('_', ' ')}"
        )
    return query


def require_count(option: str, value: object) -> None:
    """Raise the ValueError of an option unless it is a whole number of at least 1."""
    ok = type(value) is int and value >= 1
    require(ok, option, value, "a whole number of at least 1")


def is_number(value: object) -> bool:
    """Whether an option is a finite number."""
    return isinstance(value, int | float) and isfinite(value)


def not_built(merger: str) -> RuntimeError:
    """The error of a merger that is used before it has its parameters."""
    return RuntimeError(
        f"merger '{merger}' has no parameters yet: wrap a model with it, "
        "or call build(patch_dim, query_dim)"
    )
