"""A projector of their own for merged frames: the second stream of Eq. 11 in ViLAMP.

Either copies of the stock one, or a new one that reads the frame encoder's patches (the fast path).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


class PatchConnector(nn.Sequential):
    """The frame encoder's patches ``[n, P, C]`` to ``[n, P, D]``: norm, linear, GELU, linear.

    Args:
        patch_dim: C, the width of the frame encoder's patches.
        dim: D, the width of the language model's inputs.
    """

    def __init__(self, patch_dim: int, dim: int) -> None:
        super().__init__(
            nn.LayerNorm(patch_dim), nn.Linear(patch_dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )


class Connector(nn.Module):
    """Copies of a model's projector modules, which take their places while frames are merged.

    Attributes:
        names: The modules of the model that are replaced, by their names.
        projectors: The copies, in the same order.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        if not names:
            raise ValueError(
                f"the adapter of {type(model).__name__} names no projector, so there is nothing "
                "to copy; set its class attribute `projectors`"
            )
        self.names = tuple(names)
        stock = [model.get_submodule(name) for name in names]
        self.projectors = nn.ModuleList(copy.deepcopy(module) for module in stock)


@contextmanager
def projecting_through(model: Any, connector: Connector | None) -> Iterator[None]:
    """A context in which a model's projectors are those of a connector; None changes nothing."""
    if connector is None:
        yield
        return
    stock = []
    try:
        for name, module in zip(connector.names, connector.projectors, strict=True):
            parent, _, leaf = name.rpartition(".")
            modules = model.get_submodule(parent)._modules
            stock.append((modules, leaf, modules[leaf]))
            modules[leaf] = module
        yield
    finally:
        for modules, leaf, module in stock:
            modules[leaf] = module
