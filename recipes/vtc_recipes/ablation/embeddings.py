"""Frame embeddings that all cells share: each video is embedded once, by whoever needs it first.

A file a video, ``embeddings/video-NAME.safetensors``, named by what the video is made from and by
the encoder. In it, embeddings stand under a hash of the very pixels that they were made of, chunk
by chunk, so that a video that changed finds nothing there. What is read is, bit for bit, what was
written.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vtc.encoders.lazy import LazyEncoder
from vtc_recipes.ablation.hashing import digest
from vtc_recipes.ablation.leases import Lease, claim

_POLL = 0.05


class Shelf:
    """The embeddings of one video at a time.

    Args:
        folder: Of the files of all videos; it must exist.
        leases: Of the claims on them, likewise.
        seconds: How long a worker that embeds a video may be silent before another does it.
    """

    def __init__(self, folder: Path, leases: Path, seconds: float) -> None:
        self.folder, self.leases, self.seconds = folder, leases, seconds
        self._video: str | None = None
        self._writing: dict[Path, tuple[Lease, dict[str, Tensor]]] = {}

    @contextmanager
    def of(self, video: str) -> Iterator[None]:
        """Be about a video, given by its name; in the end, write what is new."""
        self._video = video
        try:
            yield
            for file, (_, kept) in self._writing.items():
                _write(file, kept)
        finally:
            for lease, _ in self._writing.values():
                lease.stop(free=True)
            self._writing.clear()
            self._video = None

    def find(self, encoder: str, chunk: str) -> Tensor | None:
        """Embeddings under a key; None where this worker is to make them, and then to `keep` them.

        Where another worker is about to make them, they are waited for.
        """
        file = self._file(encoder)
        while file not in self._writing:
            kept = load_file(file) if file.exists() else {}
            if chunk in kept:
                return kept[chunk]
            lease = claim(self.leases, file.stem, self.seconds)
            if lease is None:
                time.sleep(_POLL)
            else:
                # Read again: they may have been written just before the claim.
                self._writing[file] = (lease, load_file(file) if file.exists() else {})
        return self._writing[file][1].get(chunk)

    def keep(self, encoder: str, chunk: str, embeddings: Tensor) -> None:
        """Keep what `find` did not find."""
        self._writing[self._file(encoder)][1][chunk] = embeddings.cpu().contiguous()

    def _file(self, encoder: str) -> Path:
        if self._video is None:
            raise RuntimeError("embeddings are kept for a video: use `with shelf.of(video)`")
        return self.folder / f"video-{digest([self._video, encoder])}.safetensors"


class KeepingEncoder(LazyEncoder):
    """A frame encoder that looks on a shelf before it embeds frames.

    Args:
        inner: The encoder.
        identity: What it is, device and precision included: others never share its embeddings.
        shelf: Where they are kept.
    """

    def __init__(self, inner: LazyEncoder, identity: str, shelf: Shelf) -> None:
        super().__init__(inner)
        self.name = inner.name
        self.given_object = False  # it is normalised already, and named as before
        self._inner, self._identity, self._shelf = inner, identity, shelf

    def to(self, device: Any = None, dtype: Any = None) -> LazyEncoder:
        self._inner.to(device, dtype)
        return self

    def follow(self, device: torch.device) -> None:
        self._inner.follow(device)

    def text_notes(self, text: str) -> list[str]:
        return self._inner.text_notes(text)

    def encode_frames(self, frames: Any) -> Tensor:
        pixels = torch.as_tensor(frames).cpu().contiguous()
        chunk = hashlib.sha256(f"{tuple(pixels.shape)}".encode())
        chunk.update(pixels.numpy().data)
        key = chunk.hexdigest()
        found = self._shelf.find(self._identity, key)
        if found is not None:
            return found.to(self._inner.device)
        made = self._inner.encode_frames(frames)
        self._shelf.keep(self._identity, key, made)
        return made

    def encode_text(self, text: str) -> Tensor:
        return self._inner.encode_text(text)

    def encode_text_raw(self, text: str) -> Tensor:
        return self._inner.encode_text_raw(text)


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file that is there whole or not at all."""
    partial = file.with_name(f"{uuid.uuid4().hex}.partial")
    save_file(tensors, partial)
    os.replace(partial, file)
