"""Build models from a configuration, on the meta device without weights or with random ones."""

from __future__ import annotations

import copy
import os
from typing import Any

from vtc.profiler.counting import COUNTED_ATTENTION, register_attention
from vtc.profiler.subject import bytes_of


def empty_model(config: Any, dtype: Any) -> Any:
    """Return a model on the meta device whose attention is counted as one operation."""
    register_attention()
    return _model(config, "meta", dtype, attn_implementation=COUNTED_ATTENTION)


def random_model(config: Any, dtype: Any, device: str) -> Any:
    """Return a model with the random weights of its initialisation."""
    return _model(config, device, dtype)


def _model(config: Any, device: str, dtype: Any, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    # from_config modifies its argument.
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            copy.deepcopy(config), dtype=dtype, **options
        )
    return model.eval().requires_grad_(False)


def check_room(name: str, config: Any, dtype: Any, device: str) -> None:
    """Check that a model's weights fit the memory, before the system kills the process.

    Raises:
        ValueError: They need more than the free memory.
    """
    if device != "cpu" or not hasattr(os, "sysconf"):
        return
    needed = bytes_of(empty_model(config, dtype))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > free:
        raise ValueError(
            f"the weights of {name} take {needed / 1e9:.1f} GB in {dtype}, and {free / 1e9:.1f} GB "
            "are free here; count it with --device meta, or give a smaller model or --dtype"
        )
