"""Input checks shared by all mergers."""

from __future__ import annotations

import torch
from torch import Tensor


def check_patches(merger: str, patches: Tensor) -> None:
    """Raise unless patches are floating point and ``[n, M, D]`` with M >= 1; n may be 0."""
    if patches.ndim != 3 or patches.shape[1] == 0:
        raise ValueError(
            f"merger '{merger}': expected patches [n, M, D], M >= 1 patch tokens of n frames, got "
            f"{list(patches.shape)}"
        )
    if not patches.is_floating_point():
        raise TypeError(f"merger '{merger}': expected floating-point patches, got {patches.dtype}")


def check_reference(merger: str, patches: Tensor, reference: Tensor, has_reference: Tensor) -> None:
    """Raise unless ``reference`` and ``has_reference`` fit patches ``[n, M, D]``."""
    if reference.shape != patches.shape or has_reference.shape != patches.shape[:-2]:
        raise ValueError(
            f"merger '{merger}': expected patches [n, M, D], reference [n, M, D] and "
            f"has_reference [n], got {list(patches.shape)}, {list(reference.shape)} and "
            f"{list(has_reference.shape)}"
        )
    if has_reference.dtype is not torch.bool:
        raise TypeError(
            f"merger '{merger}': expected has_reference of torch.bool, got {has_reference.dtype}"
        )


def check_query(
    merger: str, query: Tensor | None, dim: int, source: object, batched: bool = False
) -> Tensor:
    """Return the query; raise unless it is ``[dim]``, or ``[..., dim]`` if ``batched``.

    ``source`` is the merger's ``query_source``.
    """
    if query is None:
        raise ValueError(
            f"merger '{merger}' needs a query, got None: ask a question, pass vtc_query=... to "
            "generate, or choose a merger without a query, such as 'mean_pool'"
        )
    if query.shape[-1:] != (dim,) or not (batched or query.ndim == 1):
        origin = str(source).replace("_", " ")
        raise ValueError(
            f"merger '{merger}': expected a query [{dim}] from the {origin}, got "
            f"{list(query.shape)}"
        )
    return query


def not_built(merger: str) -> RuntimeError:
    """Return the error for a merger that is called before `build`."""
    return RuntimeError(
        f"merger '{merger}' has no parameters yet: wrap a model with it, "
        "or call build(patch_dim, query_dim)"
    )
