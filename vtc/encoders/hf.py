"""Frame encoders from transformers: CLIP, SigLIP, SigLIP2 and BLIP models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from vtc.encoders.base import EncoderOptions
from vtc.encoders.clip import ClipEncoder
from vtc.encoders.hub import cache_first
from vtc.encoders.image import CONVERT, PICKLES

MODEL_TYPES = ("clip", "siglip", "siglip2", "blip")


class HFClipEncoder(ClipEncoder):
    """A ``CLIPModel``, ``SiglipModel`` or ``Siglip2Model`` with its own image processor."""

    def __init__(
        self,
        model: Any,
        image_processor: Any,
        tokenizer: Any,
        *,
        name: str,
        options: EncoderOptions,
    ) -> None:
        config = model.config
        self._is_clip = config.model_type == "clip"
        # SigLIP has no projection of images: its pooled state is the embedding.
        widths = {"clip": "projection_dim", "blip": "image_text_hidden_size"}
        width = widths.get(config.model_type)
        dim = getattr(config, width) if width else config.vision_config.hidden_size
        context = config.text_config.max_position_embeddings
        super().__init__(model, name=name, dim=dim, context=context, options=options)
        self._image_processor = image_processor
        self._tokenizer = tokenizer

    def _preparation(self) -> str:
        return f"{type(self._image_processor).__name__} {self._image_processor.to_json_string()}"

    def _image_features(self, frames: Tensor) -> Tensor:
        # pooler_output is projected in get_*_features; last_hidden_state never is.
        features: Tensor = self._run(frames).pooler_output
        return features

    def _image_patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        output = self._run(frames)
        # CLIP's class token comes first; SigLIP has none.
        return output.pooler_output, output.last_hidden_state[:, 1 if self._is_clip else 0 :]

    def _run(self, frames: Tensor) -> Any:
        return self._model.get_image_features(**self._pixels(frames), return_dict=True)

    def _pixels(self, frames: Tensor) -> Any:
        """Return the inputs of the vision tower for ``[n, 3, H, W]`` uint8."""
        return self._image_processor(
            list(frames), input_data_format="channels_first", return_tensors="pt"
        ).to(device=self._device, dtype=self._dtype)

    def _text_features(self, texts: list[str]) -> Tensor:
        inputs = self._tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.context,
            return_tensors="pt",
        ).to(self._device)
        # SigLIP was trained on padded texts without a mask and pools the last position.
        mask = inputs["attention_mask"] if self._is_clip else None
        features: Tensor = self._model.get_text_features(
            input_ids=inputs["input_ids"], attention_mask=mask, return_dict=True
        ).pooler_output
        return features

    def _count_tokens(self, text: str) -> int:
        return len(self._tokenizer(text, verbose=False).input_ids)


def load_hf_clip(spec: str, options: EncoderOptions) -> HFClipEncoder:
    """Load a folder or ``"hf:NAME"``; see `vtc.encoders.lazy.load_encoder`."""
    if spec.startswith("hf:"):
        name = spec.removeprefix("hf:")
        return cache_first(
            spec, name, "/path/to/folder", lambda local: _load(spec, name, local, options)
        )
    source = os.path.expanduser(spec)
    _check_folder(Path(source))
    return _load(spec, source, True, options)


def _load(spec: str, source: str, local: bool, options: EncoderOptions) -> HFClipEncoder:
    from transformers import (
        AutoImageProcessor,
        AutoModel,
        AutoTokenizer,
        BlipForImageTextRetrieval,
        PretrainedConfig,
    )

    from vtc.encoders.blip import BlipEncoder

    config, _ = PretrainedConfig.get_config_dict(source, local_files_only=local)
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"encoder={spec!r}: expected a CLIP, SigLIP, SigLIP2 or BLIP model with both towers"
            f" (model_type {', '.join(MODEL_TYPES)}), got model_type {model_type!r}"
        )
    is_blip = model_type == "blip"
    # BLIP's AutoModel has other weights than those that retrieval has trained.
    model_class = BlipForImageTextRetrieval if is_blip else AutoModel
    model, loading = model_class.from_pretrained(
        source,
        dtype=options.dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=local,
        output_loading_info=True,
    )
    # transformers only warns, and leaves these weights random.
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"encoder={spec!r} lacks {len(missing)} weights of {type(model).__name__}, such as"
            f" {missing[0]}; give a model with both towers"
        )
    return (BlipEncoder if is_blip else HFClipEncoder)(
        model,
        AutoImageProcessor.from_pretrained(source, local_files_only=local),
        AutoTokenizer.from_pretrained(source, local_files_only=local),
        name=spec,
        options=options,
    )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        advice = "a transformers CLIP, SigLIP, SigLIP2 or BLIP model has one"
        if (folder / "open_clip_config.json").is_file():
            advice = f"for the open_clip model in it write 'open_clip:{folder}'"
        raise ValueError(f"encoder={str(folder)!r}: the folder has no config.json; {advice}")
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
        advice = CONVERT.format(str(pickles[0])) if pickles else "download it again"
        raise ValueError(f"encoder={str(folder)!r}: the folder has no .safetensors file; {advice}")
