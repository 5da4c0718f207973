"""Frame encoders: embeddings of frames and of the query, by which selectors choose keyframes.

The paper uses CLIP ViT-B/32 (Eq. 2-3 and section 5.1 of ViLAMP), which is the default of
``vtc.wrap``; any CLIP, SigLIP or SigLIP2 model will do, and so will an object of your own. Models
of timm see frames only: they serve selectors that take no query.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

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


class FrameEncoder(ABC):
    """Turns frames and text into embeddings of one space.

    Attributes:
        name: What the encoder was loaded from; `load_encoder` takes it again.
        dim: d, the width of the embeddings.
        notes: What the latest `encode_text` did to the text, in words for the report.
    """

    name: str
    dim: int
    notes: list[str]

    @abstractmethod
    def encode_frames(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Embed frames.

        Args:
            frames: ``[n, H, W, 3]`` uint8 RGB, on any device; n may be 0.

        Returns:
            ``[n, d]`` float32, L2-normalised, on the encoder's device.
        """

    @abstractmethod
    def encode_text(self, text: str) -> Tensor:
        """Embed a query: ``[d]`` float32, L2-normalised, on the encoder's device.

        Raises:
            ValueError: The encoder knows no text.
        """

    def encode_patches(self, frames: Tensor | NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Embed frames, and give the patches that the embeddings were made of.

        Args:
            frames: As `encode_frames` takes them.

        Returns:
            ``[n, d]``, what `encode_frames` gives, and ``[n, P, C]``, the features of the patches
            after the last layer, in the precision that the encoder computes in.

        Raises:
            ValueError: The encoder has no patches.
        """
        raise ValueError(
            f"encoder {self.name} gives no patches to merge; give it a method encode_patches, or "
            "take a CLIP, SigLIP or timm vision transformer"
        )

    def encode_text_raw(self, text: str) -> Tensor:
        """Embed a query without scaling it to length one: ``[d]`` float32.

        Raises:
            ValueError: The encoder gives text embeddings of length one only, or none.
        """
        raise ValueError(
            f"encoder {self.name} has no text embeddings before normalisation, which the merger "
            "takes; give it a method encode_text_raw, or take a CLIP or SigLIP model"
        )


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder is run; checked here, before anything is loaded."""

    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = 32
    long_text: Literal["split", "truncate"] = "split"

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ValueError(f"dtype={self.dtype}: allowed is a floating-point torch.dtype")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: allowed is at least 1")
        if self.long_text not in ("split", "truncate"):
            raise ValueError(f"long_text={self.long_text!r}: allowed are 'split', 'truncate'")


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
        from vtc._open_clip import load_open_clip

        return load_open_clip(source, options)
    if source.startswith("timm:"):
        from vtc._timm_encoder import load_timm

        return load_timm(source, options)
    from vtc._hf_clip import load_hf_clip

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
            from vtc._image_encoder import ImageEncoder

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
