"""The projector of merged frames: the second stream of Eq. 11 of ViLAMP.

It is either a copy of the stock projector, or a new one that reads the frame encoder's patches.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class PatchConnector(nn.Sequential):
    """Project the frame encoder's patches ``[n, P, C]`` to ``[n, P, D]``.

    Args:
        patch_dim: C, the width of the frame encoder's patches.
        dim: D, the width of the language model's inputs.
    """

    def __init__(self, patch_dim: int, dim: int) -> None:
        super().__init__(
            nn.LayerNorm(patch_dim), nn.Linear(patch_dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )


class Connector(nn.Module):
    """Copies of a model's projector modules, which project the merged frames.

    Attributes:
        names: The names of the model's modules that were copied.
        projectors: The copies, in the same order.

    Raises:
        ValueError: ``names`` is empty.
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


def model_with_projectors(model: M, connector: Connector) -> M:
    """Return a view of a model that projects through a connector; the model is unchanged."""
    return model_with_modules(model, dict(zip(connector.names, connector.projectors, strict=True)))


def model_with_modules(model: M, modules: Mapping[str, nn.Module]) -> M:
    """Return a view of a model in which some modules are replaced; the model is unchanged.

    The view shares all other modules with the model, except that the parents of the replaced ones
    are shallow copies. Other threads that use the model do not see the view.
    """
    view = shallow_copy(model)
    for name, module in modules.items():
        *path, leaf = name.split(".")
        parent: nn.Module = view
        original: nn.Module = model
        for step in path:
            original = original._modules[step]  # type: ignore[assignment]
            child = parent._modules[step]
            if child is original:  # not copied for an earlier projector
                child = parent._modules[step] = shallow_copy(original)
            parent = child  # type: ignore[assignment]
        parent._modules[leaf] = module
    return view


def shallow_copy(module: M) -> M:
    """Return a copy of a module that shares its parameters and submodules."""
    # copy.copy would go through __reduce_ex__, which a wrapped model overrides.
    view = object.__new__(type(module))
    attributes = {**module.__dict__, "_modules": dict(module._modules)}
    attributes.pop("_compiled_call_impl", None)  # set by module.compile(), bound to the original
    for name in ("forward", "_old_forward"):  # set by accelerate's hooks, bound to the original
        if name in attributes:
            attributes[name] = _rebound(attributes[name], module, view)
    view.__dict__ = attributes
    return view


def _rebound(function: Any, module: nn.Module, view: nn.Module) -> Any:
    """Rebind a function from a module to its view.

    Raises:
        ValueError: The function is not bound to the module in a known way.
    """
    if isinstance(function, functools.partial) and function.args[:1] == (module,):
        return functools.partial(function.func, view, *function.args[1:], **function.keywords)
    if getattr(function, "__self__", None) is module:
        return types.MethodType(function.__func__, view)
    raise ValueError(
        f"the forward of {type(module).__name__} was replaced on the object, so a separate "
        "connector cannot be used with it; restore the forward of its class"
    )
