"""Choose the device that a model runs on."""

from __future__ import annotations

import torch


def pick_device(device: str | torch.device) -> str:
    """Return the name of a device; ``auto`` is a GPU if there is one.

    Raises:
        ValueError: There is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=device).device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot use device={str(device)!r} here: {reason}") from error
