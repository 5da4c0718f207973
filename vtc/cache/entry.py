"""An entry of a cache: tensors of one video and their key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtc.cache.hashing import text_hash
from vtc.plugins.sections import Section

FORMAT = 1
"""The version of the files; entries of another version are not read."""

Key = dict[str, str | int | float | bool | None]
"""Everything the tensors of an entry depend on except the content of the video."""

_DESCRIPTIONS = {
    "timestamps": "other sampled frames",
    "weights": "other weights",
    "preparation": "other preprocessing of frames",
    "connector": "another connector",
    "merger": "another merger",
    "processor": "another processor",
    "family": "another family, or other options of it",
    "tower": "another tower",
    "configuration": "another configuration of the model",
}
"""Descriptions of differences whose values are hashes."""


class Entry(Section):
    """``entry.json``, the description of ``data.safetensors`` in the same folder.

    Attributes:
        format: The version of the files.
        kind: The kind of the tensors, such as ``"frame embeddings"``.
        video: The name of the video file.
        content: The SHA-256 of the video file's content.
        key: Everything else that the tensors depend on.
        sampling: The sampling options of the frames, for messages.
        warnings: Warnings from reading the video.
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
    """Describe the differences between an entry and the required key."""
    options = _changes(entry.sampling, sampling)
    lines: list[str] = []
    for name, change in _changes(entry.key, key).items():
        if name == "timestamps" and options:
            lines += options.values()
        else:
            lines.append(_DESCRIPTIONS.get(name, change))
    return lines


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    names = sorted(old.keys() | new.keys())
    return {
        name: f"{name}={old.get(name)!r} instead of {new.get(name)!r}"
        for name in names
        if old.get(name) != new.get(name)
    }
