"""Replace a saved model's files atomically: a killed save leaves the old model or the new one.

New files are written and flushed in a hidden folder inside the target, which is then renamed to
`STAGED`. From then on the new model is valid. Its files are moved into place by the same process
or, if that is killed, by the next one that opens the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGED = ".vtc-staged"
_PARTIAL = ".vtc-partial-"
_MANIFEST = "vtc-files.json"
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_REPLACED = (*_WEIGHTS, "vtc.safetensors")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a folder to write a model's files into; at the end, move them all into place.

    Files of the same name are replaced and weights of an earlier model removed; other files stay.

    Raises:
        RuntimeError: Another process is saving into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish(folder)
    _remove_leftovers(folder)
    partial = folder / f"{_PARTIAL}{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        names = sorted(path.name for path in partial.iterdir())
        (partial / _MANIFEST).write_text(json.dumps(names), encoding="utf-8")
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        partial.rename(folder / STAGED)
        flush(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finish(folder)


def finish(folder: Path) -> None:
    """Move the files of a complete save into place, in case its process was killed."""
    source = folder / STAGED
    if not source.is_dir():
        return
    manifest = source / _MANIFEST
    if manifest.is_file():
        names = json.loads(manifest.read_text("utf-8"))
        for pattern in _REPLACED:
            for old in folder.glob(pattern):
                if old.name not in names:
                    old.unlink()
        for path in source.iterdir():
            if path.name == _MANIFEST:
                continue
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
        flush(folder)
        manifest.unlink()
    source.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Remove the partial files of saves whose process is dead."""
    for partial in folder.glob(f"{_PARTIAL}[0-9]*"):
        process = int(partial.name.removeprefix(_PARTIAL))
        if process != os.getpid() and is_alive(process):
            raise RuntimeError(
                f"process {process} is saving into {folder}: wait for it, or remove {partial}"
            )
        shutil.rmtree(partial)


def is_alive(process: int) -> bool:
    """Return whether a process with this number exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def flush(path: Path) -> None:
    """Write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
