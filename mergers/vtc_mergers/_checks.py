"""The checks that mergers share."""

from __future__ import annotations

import torch
from torch import Tensor


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
    if reference.shape != patches.shape or has_reference.shape != patches.shape[:1]:
        raise ValueError(
            f"merger '{merger}': patches are {list(patches.shape)}, reference is "
            f"{list(reference.shape)} and has_reference is {list(has_reference.shape)}; "
            "allowed are [n, M, D], [n, M, D] and [n]"
        )
    if has_reference.dtype is not torch.bool:
        raise TypeError(
            f"merger '{merger}': has_reference is {has_reference.dtype}; allowed is torch.bool"
        )


def not_built(merger: str) -> RuntimeError:
    """The error of a merger that is used before it has its parameters."""
    return RuntimeError(
        f"merger '{merger}' has no parameters yet: wrap a model with it, "
        "or call build(patch_dim, query_dim)"
    )
