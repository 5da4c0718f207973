"""Frame encoders from timm, such as DINOv2: they embed frames, not text."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtc.encoders.base import EncoderOptions
from vtc.encoders.hub import cache_first
from vtc.encoders.image import CONVERT, PICKLES, ImageEncoder

FILES = ("config.json", "model.safetensors")


class TimmEncoder(ImageEncoder):
    """A model of timm without its classifier, with the preprocessing of timm's transform.

    The embedding is the input of the classifier: the class token or the mean of the patches,
    depending on the model's pooling.
    """

    def __init__(self, model: Any, *, name: str, options: EncoderOptions) -> None:
        from timm.data import create_transform, resolve_data_config

        super().__init__(model, name=name, dim=int(model.head_hidden_size), options=options)
        preprocessing = resolve_data_config({}, model=model)
        self._transform = create_transform(**preprocessing, is_training=False)

    def _preparation(self) -> str:
        return repr(self._transform)

    def _image_features(self, frames: Tensor) -> Tensor:
        features: Tensor = self._model(self._pixels(frames))
        return features

    def _image_patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self._model.forward_features(self._pixels(frames))
        if tokens.ndim != 3:
            raise ValueError(
                f"encoder {self.name!r}: expected patches [n, P, C], got features of the shape "
                f"{list(tokens.shape)}; use a vision transformer"
            )
        features: Tensor = self._model.forward_head(tokens)
        return features, tokens[:, self._model.num_prefix_tokens :]

    def _pixels(self, frames: Tensor) -> Tensor:
        from PIL import Image

        # Use Pillow, since timm cannot pad tensors in the colour that some models need.
        pictures = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).cpu().numpy()]
        pixels = torch.stack([self._transform(picture) for picture in pictures])
        return pixels.to(self._device, self._dtype)

    def encode_text(self, text: str) -> Tensor:
        raise ValueError(
            f"encoder {self.name!r} embeds frames only, and the query needs a text encoder; use"
            " 'open_clip:MODEL/TAG', 'hf:NAME' or the folder of a CLIP or SigLIP model"
        )


def load_timm(spec: str, options: EncoderOptions) -> TimmEncoder:
    """Load ``"timm:NAME"`` or ``"timm:FOLDER"``; see `vtc.encoders.lazy.load_encoder`.

    Both are a folder with ``config.json`` and ``model.safetensors``, as timm's ``save_for_hf`` and
    ``push_to_hf_hub`` write it with ``safe_serialization=True``. A named model is downloaded.
    """
    import timm
    from safetensors import SafetensorError

    source = spec.removeprefix("timm:")
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_folder(spec, folder)
    elif source.startswith((".", "~")) or "/" in source or os.sep in source:
        raise ValueError(f"encoder={spec!r}: there is no such folder")
    else:
        folder = _download(spec, source)
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, SafetensorError) as error:  # from load_state_dict or a damaged file
        raise ValueError(
            f"encoder={spec!r}: timm cannot build the model from {' and '.join(FILES)}: {error}"
        ) from error
    # Not create_model(num_classes=0), which would leave missing weights random.
    model.reset_classifier(0)
    return TimmEncoder(model, name=spec, options=options)


def _check_folder(spec: str, folder: Path) -> None:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not missing:
        return
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    advice = "; " + CONVERT.format(str(pickles[0])) if pickles else ""
    raise ValueError(f"encoder={spec!r}: the folder lacks {' and '.join(missing)}{advice}")


def _download(spec: str, name: str) -> Path:
    """Return the folder with the published files of a model; download them if needed."""
    import timm
    from huggingface_hub import hf_hub_download

    def files(local: bool) -> list[str]:
        return [hf_hub_download(repository, file, local_files_only=local) for file in FILES]

    published = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if published is None or not published.hf_hub_id:
        near = difflib.get_close_matches(name, timm.list_models(pretrained=True), n=3)
        raise ValueError(
            f"encoder={spec!r}: timm has no published weights of {name!r};"
            f" similar: {', '.join(near) or 'none'}. timm.list_models(pretrained=True) lists all"
        )
    repository: str = published.hf_hub_id
    return Path(cache_first(spec, repository, "timm:FOLDER", files)[0]).parent
