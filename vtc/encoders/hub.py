"""Read a frame encoder's files from the local cache, and from the Hugging Face hub otherwise."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from typing import TypeVar
from urllib.error import HTTPError

T = TypeVar("T")

_SECONDS = 5.0
"""The time limit for the hub's first answer."""


def cache_first(spec: str, repository: str, folder: str, load: Callable[[bool], T]) -> T:
    """Load from the local cache, and from the hub if files are missing there.

    The cache comes first because the Hugging Face libraries ask the hub about every file and retry
    for about a minute without a network, even when all files are cached.

    Args:
        spec: The encoder as the user named it.
        repository: ``OWNER/NAME`` on the hub.
        folder: The form of a local copy's name: ``open_clip:FOLDER``.
        load: Called with ``local_files_only``.

    Raises:
        OSError: The files are neither in the cache nor on the hub, or the hub does not answer.
    """
    from huggingface_hub import constants

    try:
        return load(True)
    except OSError:
        pass
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE=1 forbids downloads")
        _require_answer(constants.ENDPOINT)
        return load(False)
    except OSError as error:
        raise OSError(
            f"encoder={spec!r}: {repository!r} is not in the local cache "
            f"({os.fspath(constants.HF_HUB_CACHE)}) and cannot be downloaded: {error}. Download it "
            f"where there is a network (`hf download {repository}`), then copy the cache, or give "
            f"the folder: {folder!r}. HF_HUB_OFFLINE=1 makes every library use the cache alone"
        ) from error


def _require_answer(address: str) -> None:
    """Raise an OSError without retries if a server cannot be reached."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, method="HEAD"), timeout=_SECONDS
        ):
            pass
    except HTTPError:
        pass  # any answer will do
