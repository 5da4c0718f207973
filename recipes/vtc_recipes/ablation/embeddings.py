"""Frame embeddings shared by all cells: the first cell that needs a video embeds it.

There is one file ``embeddings/video-NAME.safetensors`` for each video and encoder. It holds the
embeddings of each chunk of frames under a hash of their pixels, so a changed video does not get old
embeddings. Embeddings read are bit-identical to those written.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from vtc.encoders.lazy import LazyEncoder
from vtc_recipes.ablation.hashing import digest


class Shelf:
    """Stores the embeddings of one video at a time.

    The first worker that lacks embeddings locks the video; others wait, then read its results.

    Args:
        folder: The folder for the files of all videos; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._video = ""
        self._lock: FileLock | None = None
        self._new: dict[Path, dict[str, Tensor]] = {}

    @contextmanager
    def open_video(self, video: str) -> Iterator[None]:
        """Store embeddings of the named video; new ones are written when the context ends."""
        self._video = video
        name = f"video-{digest(video)}.lock"
        self._lock = FileLock(self.folder / name, thread_local=False)
        try:
            yield
            for file, embeddings in self._new.items():
                _write(file, embeddings)
        finally:
            self._lock.release(force=True)
            self._lock = None
            self._new.clear()

    def find(self, encoder: str, chunk: str) -> Tensor | None:
        """Return the embeddings of a chunk; None if this worker must embed and `keep` them."""
        file, lock = self._place(encoder)
        if file not in self._new:
            embeddings = _read(file)
            if chunk in embeddings:
                return embeddings[chunk]
            lock.acquire()
            self._new[file] = _read(file)  # the worker that held the lock may have written them
        return self._new[file].get(chunk)

    def keep(self, encoder: str, chunk: str, embeddings: Tensor) -> None:
        """Store embeddings for which `find` returned None."""
        self._new[self._place(encoder)[0]][chunk] = embeddings.cpu().contiguous()

    def _place(self, encoder: str) -> tuple[Path, FileLock]:
        if self._lock is None:
            raise RuntimeError("embeddings belong to a video: use `with shelf.open_video(video)`")
        name = digest([self._video, encoder])
        return self.folder / f"video-{name}.safetensors", self._lock


class KeepingEncoder(LazyEncoder):
    """A frame encoder that looks up embeddings on a shelf before it embeds frames.

    Args:
        inner: The encoder.
        identity: Identifies the encoder and its device; other encoders do not share its embeddings.
        shelf: Stores the embeddings.
    """

    def __init__(self, inner: LazyEncoder, identity: str, shelf: Shelf) -> None:
        super().__init__(inner)
        self.name = inner.name
        self.given_object = False  # the inner encoder normalises, and its name is kept
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
        stored = self._shelf.find(self._identity, key)
        if stored is not None:
            return stored.to(self._inner.device)
        embeddings = self._inner.encode_frames(frames)
        self._shelf.keep(self._identity, key, embeddings)
        return embeddings

    def encode_text(self, text: str) -> Tensor:
        return self._inner.encode_text(text)

    def encode_text_raw(self, text: str) -> Tensor:
        return self._inner.encode_text_raw(text)


def _read(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.exists() else {}


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file and rename it into place, so that it is complete or absent."""
    partial = file.with_name(f"{uuid.uuid4().hex}.partial")
    save_file(tensors, partial)
    os.replace(partial, file)
