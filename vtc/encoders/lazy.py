"""Load the frame encoder that a name, a folder or an object stands for, at its first use."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

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

    Local weights are read from safetensors only. What open_clip and transformers download is
    safetensors where it was published so; open_clip's few older files are read with
    ``weights_only=True``. No code from the hub is run.

    Args:
        spec: ``"open_clip:MODEL/TAG"``, ``"open_clip:MODEL/FILE.safetensors"``,
            ``"open_clip:FOLDER"`` with an ``open_clip_config.json``, ``"hf:NAME"``, the folder of
            a transformers CLIP, SigLIP or SigLIP2 model, ``"timm:NAME"`` or ``"timm:FOLDER"``,
            which embed no text, or an object with ``encode_frames`` and ``encode_text``, which is
            returned as it is, whatever the other arguments.
        device: Where the model runs and where embeddings are returned.
        dtype: Of the weights; embeddings are float32 always.
        batch_size: The most frames that are encoded at once.
        long_text: For text beyond the model's context: ``"split"`` embeds it in parts and
            averages them, ``"truncate"`` drops the rest. `FrameEncoder.notes` tells.

    Raises:
        TypeError: An object lacks a method.
        ValueError: The form or a name is unknown, or the files are not those of an encoder.
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
    """Return ``spec`` with paths as str, or raise when it has none of the allowed forms.

    Nothing is imported and no file is opened.
    """
    if not isinstance(spec, str | os.PathLike):
        missing = [
            method
            for method in ("encode_frames", "encode_text")
            if not callable(getattr(spec, method, None))
        ]
        if missing or isinstance(spec, type):
            lack = f"without {' and '.join(missing)}" if missing else "a class, not an object"
            raise TypeError(
                f"encoder={spec!r} is {lack}; an encoder is one of these:{ALLOWED_FORMS}"
            )
        return cast(FrameEncoder, spec)
    source = os.fspath(spec)
    if source.startswith("open_clip:"):
        model, slash, weights = source.removeprefix("open_clip:").partition("/")
        known = bool(slash and (model or weights)) and bool(weights)
    elif source.startswith(("hf:", "timm:")):
        known = not source.endswith(":")
    else:
        known = os.path.isdir(os.path.expanduser(source))
    if not known:
        hint = ""
        if source.count("/") == 1 and ":" not in source and not source.startswith((".", "/", "~")):
            hint = f" There is no such folder; for a model on the hub write 'hf:{source}'."
        raise ValueError(
            f"encoder={source!r} has none of the known forms.{hint}"
            f" An encoder is one of these:{ALLOWED_FORMS}"
        )
    return source


class LazyEncoder(FrameEncoder):
    """An encoder that is loaded at its first use.

    Only the form of ``spec`` is checked at once, so that a selector that needs no embeddings
    costs neither imports nor memory. Takes the arguments of `load_encoder`.
    """

    def __init__(
        self,
        spec: str | os.PathLike[str] | FrameEncoder,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 32,
        long_text: Literal["split", "truncate"] = "split",
    ) -> None:
        self._options = EncoderOptions(device, dtype, batch_size, long_text)
        source = check_spec(spec)
        self.given_object = not isinstance(source, str)
        self._encoder = None if isinstance(source, str) else source
        self.name = source if isinstance(source, str) else str(getattr(source, "name", source))

    @property
    def loaded(self) -> bool:
        """True from the first use on; always for an object."""
        return self._encoder is not None

    @property
    def long_text(self) -> Literal["split", "truncate"]:
        """What happens to text beyond the model's context."""
        return self._options.long_text

    @property
    def device(self) -> torch.device | None:
        """Where embeddings are returned; None for an object, which is not asked."""
        return None if self.given_object else torch.device(self._options.device)

    def text_notes(self, text: str) -> list[str]:
        return self.notes

    def follow(self, device: torch.device) -> None:
        """Run on a device."""
        if self.device is not None and self.device != device:
            self.to(device)

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        """The notes of the latest `encode_text`; empty before the first use."""
        return list(getattr(self._encoder, "notes", ()))

    @property
    def dim(self) -> int:  # type: ignore[override]
        """d, the width of the embeddings; loads the encoder."""
        encoder = self.load()
        # Only encode_frames and encode_text are asked of an object.
        return encoder.dim if hasattr(encoder, "dim") else int(self.encode_text("width").shape[0])

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LazyEncoder:
        """Run elsewhere from now on; an encoder given as an object stays where it is."""
        self._options = replace(
            self._options,
            device=self._options.device if device is None else device,
            dtype=self._options.dtype if dtype is None else dtype,
        )
        if self._encoder is not None and not self.given_object:
            from vtc.encoders.image import ImageEncoder

            cast(ImageEncoder, self._encoder).to(self._options.device, self._options.dtype)
        return self

    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        embeddings = self.load().encode_frames(frames)
        return self._checked(embeddings, len(frames))

    def encode_patches(self, frames: Tensor | NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        encoder = self.load()
        if not hasattr(encoder, "encode_patches"):
            return super().encode_patches(frames)
        embeddings, patches = encoder.encode_patches(frames)
        if not isinstance(patches, Tensor) or patches.ndim != 3 or len(patches) != len(frames):
            given = list(patches.shape) if isinstance(patches, Tensor) else type(patches).__name__
            raise ValueError(
                f"encoder {self.name} returned the patches {given}; expected is a torch.Tensor "
                f"[{len(frames)}, P, C]"
            )
        return self._checked(embeddings, len(frames)), patches

    def encode_text(self, text: str) -> Tensor:
        return self._checked(self.load().encode_text(text), None)

    def encode_text_raw(self, text: str) -> Tensor:
        """As `FrameEncoder.encode_text_raw`; of an object without it, what its `encode_text` gives.

        That may be of any length, as it is scaled here where length one is needed.
        """
        encoder = self.load()
        encode = getattr(encoder, "encode_text_raw", encoder.encode_text)
        return self._checked(encode(text), None, scale=False)

    def load(self) -> FrameEncoder:
        """The encoder itself."""
        if self._encoder is None:
            self._encoder = _load(self.name, self._options)
        return self._encoder

    def _checked(self, embeddings: object, rows: int | None, scale: bool = True) -> Tensor:
        """Refuse wrong shapes and numbers; scale to length one what an object did not."""
        expected = "[d]" if rows is None else f"[{rows}, d]"
        if not isinstance(embeddings, Tensor):
            raise TypeError(
                f"encoder {self.name} returned {type(embeddings).__name__};"
                f" expected is a torch.Tensor {expected}"
            )
        shape = list(embeddings.shape)
        if shape[:-1] != ([] if rows is None else [rows]) or not shape:
            raise ValueError(
                f"encoder {self.name} returned the shape {shape}; expected is {expected}"
            )
        if not bool(embeddings.isfinite().all()):
            raise ValueError(
                f"encoder {self.name} returned NaN or infinity; expected are finite numbers: "
                "run it in bfloat16 or float32"
            )
        embeddings = embeddings.float()
        return F.normalize(embeddings, dim=-1) if self.given_object and scale else embeddings

    def __repr__(self) -> str:
        return f"LazyEncoder({self.name!r}, loaded={self.loaded})"
