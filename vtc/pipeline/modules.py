"""Look inside the wrappers that peft and accelerate put around a model's modules."""

from __future__ import annotations

from typing import Any

import torch


def active_module(module: Any) -> Any:
    """Return the active module inside peft's ``ModulesToSaveWrapper``; else ``module`` itself."""
    copies = getattr(module, "modules_to_save", None)
    if copies is None:
        return module
    active = module.active_adapters  # empty for an adapter that does not change this module
    if module.disable_adapters or not active or active[0] not in copies:
        return module.original_module
    return copies[active[0]]


def input_device(model: Any) -> torch.device:
    """Return the device of a model's inputs, even if accelerate keeps its weights elsewhere."""
    table = model.get_input_embeddings()
    placed = getattr(getattr(table, "_hf_hook", None), "execution_device", None)
    return torch.device(table.weight.device if placed is None else placed)
