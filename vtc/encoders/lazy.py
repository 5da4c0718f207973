"""Load a frame encoder by its name or folder, on first use."""

from __future__ import annotations

import os
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc.encoders.base import EncoderOptions, FrameEncoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALLOWED_FORMS = """
  open_clip:MODEL/TAG                 open_clip:ViT-B-32/openai
  open_clip:MODEL/FILE.safetensors    open_clip:ViT-B-32//data/model.safetensors
  open_clip:FOLDER                    open_clip:/data/folder-with-open_clip_config.json
  hf:NAME                             hf:openai/clip-vit-base-patch32
  FOLDER                              /data/folder-of-a-transformers-CLIP-or-SigLIP-model
  timm:NAME, frames only              timm:vit_small_patch14_dinov2.lvd142m
  timm:FOLDER, frames only            timm:/data/folder-with-config.json-and-model.safetensors
  an object with encode_frames and encode_text"""


def load_encoder(
    spec: str | os.PathLike[str] | FrameEncoder,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = 32,
    long_text: Literal["split", "truncate"] = "split",
) -> FrameEncoder:
    """Load the encoder that ``spec`` names.

    Local weights are read from safetensors only. Downloads are safetensors if these were
    published; open_clip's few older files are read with ``weights_only=True``. No code from the
    hub runs. Files in the local cache of the Hugging Face hub are used without contacting the hub.

    Args:
        spec: ``"open_clip:MODEL/TAG"``, ``"open_clip:MODEL/FILE.safetensors"``,
            ``"open_clip:FOLDER"`` with an ``open_clip_config.json``, ``"hf:NAME"``, the folder of
            a transformers CLIP, SigLIP, SigLIP2 or BLIP model, ``"timm:NAME"`` or
            ``"timm:FOLDER"`` (which embed no text), or an object with ``encode_frames`` and
            ``encode_text``. An object is returned unchanged, and the other arguments are ignored.
        device: The device of the model and of the embeddings.
        dtype: The dtype of the weights; embeddings are always float32.
        batch_size: The number of frames to encode at a time, at least 1.
        long_text: For text beyond the model's context: ``"split"`` embeds it in parts and
            averages them, ``"truncate"`` drops the rest. `FrameEncoder.text_notes` reports it.

    Raises:
        TypeError: An object lacks a method.
        ValueError: The form or the name is unknown, or the files hold no encoder.
        OSError: The hub or a file cannot be read.
    """
    options = EncoderOptions(device, dtype, batch_size, long_text)
    source = check_spec(spec)
    return _load(source, options) if isinstance(source, str) else source


def _load(source: str, options: EncoderOptions) -> FrameEncoder:
    if source.startswith("open_clip:"):
        from vtc.encoders.openclip import load_open_clip

        return load_open_clip(source, options)
    if source.startswith("timm:"):
        from vtc.encoders.timm import load_timm

        return load_timm(source, options)
    from vtc.encoders.hf import load_hf_clip

    return load_hf_clip(source, options)


def check_spec(spec: object) -> str | FrameEncoder:
    """Return ``spec`` with paths as str, without importing or opening anything.

    Raises:
        TypeError: An object lacks a method.
        ValueError: A name has none of the allowed forms.
    """
    if not isinstance(spec, str | os.PathLike):
        missing = [
            method
            for method in ("encode_frames", "encode_text")
            if not callable(getattr(spec, method, None))
        ]
        if missing or isinstance(spec, type):
            problem = f"has no {' and '.join(missing)}" if missing else "is a class, not an object"
            raise TypeError(
                f"encoder={spec!r} {problem}; an encoder is one of these:{ALLOWED_FORMS}"
            )
        return cast(FrameEncoder, spec)
    source = os.fspath(spec)
    if source.startswith("open_clip:"):
        model, slash, weights = source.removeprefix("open_clip:").partition("/")
        has_form = bool(slash and (model or weights)) and bool(weights)
    elif source.startswith(("hf:", "timm:")):
        has_form = not source.endswith(":")
    else:
        has_form = os.path.isdir(os.path.expanduser(source))
    if not has_form:
        problem = "has none of the allowed forms"
        if ":" not in source:
            problem += f", and there is no such folder: {source}"
        if source.count("/") == 1 and ":" not in source and not source.startswith((".", "/", "~")):
            problem += f"; for a model on the hub write 'hf:{source}'"
        raise ValueError(
            f"encoder={source!r} {problem}. An encoder is one of these:{ALLOWED_FORMS}"
        )
    return source


class LazyEncoder(FrameEncoder):
    """An encoder that is loaded on first use; threads can share it.

    Initially only the form of ``spec`` is checked, so that a selector without embeddings costs
    neither imports nor memory.

    Args:
        spec, dtype, batch_size, long_text: As `load_encoder` takes them.
        device: The device of the encoder; None: the device of the model it is wrapped into.
    """

    def __init__(
        self,
        spec: str | os.PathLike[str] | FrameEncoder,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 32,
        long_text: Literal["split", "truncate"] = "split",
    ) -> None:
        self._follows = device is None
        self._options = EncoderOptions(device or "cpu", dtype, batch_size, long_text)
        source = check_spec(spec)
        self.given_object = not isinstance(source, str)
        self._encoder = None if isinstance(source, str) else source
        self._lock = Lock()  # one thread loads or moves the encoder, the others wait
        self.name = source if isinstance(source, str) else str(getattr(source, "name", source))

    @property
    def loaded(self) -> bool:
        """Whether the encoder is loaded; always True for an object."""
        return self._encoder is not None

    @property
    def long_text(self) -> Literal["split", "truncate"]:
        """Whether text beyond the model's context is split or truncated."""
        return self._options.long_text

    @property
    def device(self) -> torch.device | None:
        """The device of the embeddings; None for an object, which decides for itself."""
        return None if self.given_object else torch.device(self._options.device)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """d, the width of the embeddings; loads the encoder."""
        encoder = self.load()
        # An object may have only encode_frames and encode_text.
        return encoder.dim if hasattr(encoder, "dim") else int(self.encode_text("width").shape[0])

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LazyEncoder:
        """Move and cast the encoder; it then no longer follows the model's device.

        An encoder given as an object is not moved.
        """
        if device is not None:
            self._follows = False
        with self._lock:
            self._move(device or self._options.device, dtype or self._options.dtype)
        return self

    def follow(self, device: torch.device) -> None:
        """Move to the device of the model, unless the encoder was given a device."""
        if self._follows and torch.device(self._options.device) != device:
            with self._lock:
                self._move(device, self._options.dtype)

    def _move(self, device: str | torch.device, dtype: torch.dtype) -> None:
        self._options = replace(self._options, device=device, dtype=dtype)
        if self._encoder is not None and not self.given_object:
            from vtc.encoders.image import ImageEncoder

            cast(ImageEncoder, self._encoder).to(device, dtype)

    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        embeddings = self.load().encode_frames(frames)
        return self._checked(embeddings, len(frames))

    def encode_patches(self, frames: Tensor | NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        encoder = self.load()
        if not hasattr(encoder, "encode_patches"):
            return super().encode_patches(frames)
        embeddings, patches = encoder.encode_patches(frames)
        if not isinstance(patches, Tensor) or patches.ndim != 3 or len(patches) != len(frames):
            value = list(patches.shape) if isinstance(patches, Tensor) else type(patches).__name__
            raise ValueError(
                f"encoder {self.name}: expected patches to be a torch.Tensor "
                f"[{len(frames)}, P, C], got {value}"
            )
        return self._checked(embeddings, len(frames)), patches

    def fingerprint(self) -> dict[str, str] | None:
        fingerprint = getattr(self.load(), "fingerprint", None)  # optional for an object
        values: dict[str, str] | None = None if fingerprint is None else fingerprint()
        if values is None or not self.given_object:
            return values
        return {**values, "encoder": f"{self.name} (object)"}  # its embeddings are scaled here

    def text_notes(self, text: str) -> list[str]:
        notes = getattr(self.load(), "text_notes", None)  # optional for an object
        return [] if notes is None else notes(text)

    def encode_text(self, text: str) -> Tensor:
        return self._checked(self.load().encode_text(text), None)

    def encode_text_raw(self, text: str) -> Tensor:
        """Embed a query without scaling it to length one: ``[d]`` float32.

        For an object without ``encode_text_raw`` this calls `encode_text`, whose result need not
        be normalised.
        """
        encoder = self.load()
        encode = getattr(encoder, "encode_text_raw", encoder.encode_text)
        return self._checked(encode(text), None, scale=False)

    def load(self) -> FrameEncoder:
        """Return the encoder; load it on first use."""
        if self._encoder is None:
            with self._lock:
                if self._encoder is None:
                    self._encoder = _load(self.name, self._options)
        return self._encoder

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_lock"]  # it can be neither copied nor pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def _checked(self, embeddings: object, rows: int | None, scale: bool = True) -> Tensor:
        """Check the shape and values; scale an object's embeddings to length one."""
        expected = "[d]" if rows is None else f"[{rows}, d]"
        if not isinstance(embeddings, Tensor):
            raise TypeError(
                f"encoder {self.name}: expected a torch.Tensor {expected}, got "
                f"{type(embeddings).__name__}"
            )
        shape = list(embeddings.shape)
        if shape[:-1] != ([] if rows is None else [rows]) or not shape:
            raise ValueError(
                f"encoder {self.name}: expected embeddings {expected}, got the shape {shape}"
            )
        if not bool(embeddings.isfinite().all()):
            raise ValueError(
                f"encoder {self.name}: expected finite embeddings, got NaN or infinity; run it in "
                "bfloat16 or float32"
            )
        embeddings = embeddings.float()
        return F.normalize(embeddings, dim=-1) if self.given_object and scale else embeddings

    def __repr__(self) -> str:
        return f"LazyEncoder({self.name!r}, loaded={self.loaded})"
