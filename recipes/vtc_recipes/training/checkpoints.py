"""Find the checkpoints of a training and detect damaged ones."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

from vtc.plugins.sections import load_json

_STATE = "trainer_state.json"
"""The file that the Trainer writes last: a checkpoint without it is incomplete."""


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a finished checkpoint, damaged or not."""
    return any(folder.glob(f"checkpoint-*/{_STATE}"))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest intact checkpoint; None if none was finished.

    Damaged ones are skipped with a warning that names the file.

    Raises:
        ValueError: All are damaged.
    """
    states = folder.glob(f"checkpoint-*/{_STATE}")
    finished = sorted((state.parent for state in states), key=_step, reverse=True)
    damages: list[str] = []
    for checkpoint in finished:
        damage = find_damage(checkpoint)
        if damage is None:
            for line in damages:
                warnings.warn(f"{line}; resuming from {checkpoint.name} instead", stacklevel=2)
            return checkpoint
        damages.append(f"{checkpoint} is damaged: {damage}")
    if damages:
        raise ValueError(
            f"{damages[0]}, and so are all earlier checkpoints; delete them and train again"
            if len(damages) > 1
            else f"{damages[0]}, and there is no earlier one; delete it and train again"
        )
    return None


def find_damage(checkpoint: Path) -> str | None:
    """Describe the first damaged file of a checkpoint; return None if all are intact."""
    from safetensors import SafetensorError, safe_open

    files = {file.name: file for file in sorted(checkpoint.iterdir())}
    for name, file in files.items():
        if file.suffix == ".json":
            try:
                load_json(file)
            except ValueError as error:
                return str(error)
        elif file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                return f"{name} cannot be read: {error}"
        elif file.suffix in (".pt", ".pth", ".bin"):  # torch writes zip files with checksums
            try:
                with zipfile.ZipFile(file) as archive:
                    if member := archive.testzip():
                        return f"{name}: wrong checksum of {member}"
            except (zipfile.BadZipFile, OSError) as error:
                return f"{name} cannot be read: {error}"
    folders = [name for name, file in files.items() if file.is_dir()]
    if any(not name.startswith(".") for name in folders):  # shards of DeepSpeed or FSDP
        return None
    for name in ("optimizer.pt", "scheduler.pt"):
        if name not in files:
            return f"{name} is missing"
    if not any(name.endswith(".safetensors") for name in files):
        return "the weights are missing"
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
