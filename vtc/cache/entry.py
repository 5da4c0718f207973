"""An entry of a cache: tensors of one video, and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtc.cache.hashing import text_hash
from vtc.plugins.sections import Section

FORMAT = 1
"""The version of the files; entries of another version are not read."""

Key = dict[str, str | int | float | bool | None]
"""What the tensors of an entry depend on, besides the content of the video."""

_UNPRINTED = {
    "timestamps": "other sampled frames",
    "weights": "other weights",
    "preparation": "frames prepared in another way",
    "connector": "another connector",
    "merger": "another merger",
    "processor": "another processor",
    "tower": "another tower",
    "configuration": "another configuration of the model",
}
"""Differences whose values say nothing to a reader."""


class Entry(Section):
    """``entry.json``, beside ``data.safetensors``.

    Attributes:
        format: The version of the files.
        kind: What the tensors are, such as ``"frame embeddings"``.
        video: The name of the file.
        content: The SHA-256 of its content.
        key: What the tensors depend on besides.
        sampling: The options that chose the frames, for messages.
        warnings: What was lost while the video was read.
        bytes: The size of the data.
        sha256: The hash of the data.
        created: Seconds since 1970.
    """

    format: int
    kind: str
    video: str
    content: str
    key: Key
    sampling: Key
    warnings: list[str]
    bytes: int
    sha256: str
    created: float


def entry_name(kind: str, key: Key) -> str:
    """Return the name of the folder of an entry."""
    return f"{kind.replace(' ', '-')}-{text_hash(key)[:16]}"


def differences(entry: Entry, key: Key, sampling: Key) -> list[str]:
    """Return in what an entry differs from what is needed, in words."""
    options = _changes(entry.sampling, sampling)
    lines: list[str] = []
    for name, change in _changes(entry.key, key).items():
        if name == "timestamps" and options:
            lines += options.values()
        else:
            lines.append(_UNPRINTED.get(name, change))
    return lines


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    names = sorted(old.keys() | new.keys())
    return {
        name: f"{name}={old.get(name)!r} instead of {new.get(name)!r}"
        for name in names
        if old.get(name) != new.get(name)
    }
