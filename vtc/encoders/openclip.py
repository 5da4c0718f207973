"""Frame encoders from open_clip: published tags, local checkpoints and local folders."""

from __future__ import annotations

import difflib
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vtc.encoders.base import EncoderOptions
from vtc.encoders.clip import ClipEncoder
from vtc.encoders.hub import cache_first
from vtc.encoders.image import CONVERT, PICKLES


class OpenClipEncoder(ClipEncoder):
    """A model of open_clip, with the preprocessing of open_clip's transform."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        *,
        name: str,
        dim: int,
        options: EncoderOptions,
    ) -> None:
        import open_clip

        context = int(tokenizer.context_length)
        super().__init__(model, name=name, dim=dim, context=context, options=options)
        self._tokenizer = tokenizer
        self._preprocessing: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)

    def _preparation(self) -> str:
        return repr(sorted(self._preprocessing.items()))

    def _image_features(self, frames: Tensor) -> Tensor:
        features: Tensor = self._model.encode_image(self._pixels(frames))
        return features

    def _image_patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        output = self._model.forward_intermediates(
            self._pixels(frames), image_indices=1, normalize=False
        )
        (grid,) = output["image_intermediates"]  # [n, C, h, w]
        return output["image_features"], grid.flatten(2).transpose(1, 2)

    def _pixels(self, frames: Tensor) -> Tensor:
        return prepare_pixels(frames, self._preprocessing).to(self._device, self._dtype)

    def _text_features(self, texts: list[str]) -> Tensor:
        features: Tensor = self._model.encode_text(self._tokenizer(texts).to(self._device))
        return features

    def _count_tokens(self, text: str) -> int:
        from open_clip.tokenizer import HFTokenizer

        tokenizer = self._tokenizer
        if not isinstance(tokenizer, HFTokenizer):
            return len(tokenizer.encode(text)) + 2
        cleaned = tokenizer.clean_fn(text)
        if tokenizer.tokenizer_mode == "clips":  # begin, end and class token are added later
            return len(tokenizer.tokenizer(cleaned, add_special_tokens=False).input_ids) + 3
        return len(tokenizer.tokenizer(cleaned).input_ids)


def prepare_pixels(frames: Tensor, preprocessing: dict[str, Any]) -> Tensor:
    """Apply open_clip's evaluation transform to a batch of frames of one size.

    Resizing works on uint8 like Pillow's, with differences of at most 2 of 255 levels.

    Args:
        frames: ``[n, 3, H, W]`` uint8.
        preprocessing: ``open_clip.PreprocessCfg`` as a dict: size, mean, std, interpolation,
            resize_mode and fill_color.

    Returns:
        ``[n, 3, h, w]`` float32.
    """
    from open_clip.transform import center_crop_or_pad
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tvF

    size = preprocessing["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = preprocessing["resize_mode"]
    if mode == "squash":
        resized = [height, width]
    elif mode == "shortest" and height == width:
        resized = [height]
    else:
        ratios = frames.shape[-2] / height, frames.shape[-1] / width
        ratio = max(ratios) if mode == "longest" else min(ratios)
        resized = [max(1, round(side / ratio)) for side in frames.shape[-2:]]
    bilinear = preprocessing["interpolation"] == "bilinear"
    interpolation = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
    frames = tvF.resize(frames, resized, interpolation=interpolation, antialias=True)
    frames = center_crop_or_pad(frames, [height, width], fill=preprocessing["fill_color"])
    pixels: Tensor = tvF.normalize(frames / 255, preprocessing["mean"], preprocessing["std"])
    return pixels


def load_open_clip(spec: str, options: EncoderOptions) -> OpenClipEncoder:
    """Load one of the ``"open_clip:..."`` forms of `vtc.encoders.lazy.load_encoder`."""
    import open_clip

    source = os.path.expanduser(spec.removeprefix("open_clip:"))
    if os.path.isdir(source):
        _check_folder(source)
        architecture = f"local-dir:{source}"
        model = _checked(spec, lambda: open_clip.create_model(architecture))
    else:
        architecture, _, weights = source.partition("/")
        _check_architecture(spec, architecture)
        published = open_clip.get_pretrained_cfg(architecture, weights)
        if published:
            file = _download(spec, published)
            preprocessing = published
        else:
            file = _check_file(spec, architecture, weights)
            preprocessing = _published_preprocessing(spec, architecture)
            _warn_of_activation(spec, architecture)
        model = _checked(
            spec,
            lambda: open_clip.create_model(
                architecture,
                pretrained=str(file),
                # open_clip 3 only warns if the weights of a tag were trained with QuickGELU but
                # the architecture has GELU, as for ViT-B-32/openai.
                force_quick_gelu=published.get("quick_gelu", False),
                force_preprocess_cfg=preprocessing,
            ),
        )
    tokenizer = _checked(spec, lambda: _tokenizer(spec, architecture))
    dim = int(open_clip.get_model_config(architecture)["embed_dim"])
    return OpenClipEncoder(model, tokenizer, name=spec, dim=dim, options=options)


def untrained_open_clip(spec: str, options: EncoderOptions) -> OpenClipEncoder:
    """Return the model ``"open_clip:MODEL/TAG"`` with random weights, or none on "meta"."""
    import open_clip

    architecture = spec.removeprefix("open_clip:").partition("/")[0]
    _check_architecture(spec, architecture)
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # open_clip warns about missing weights
    try:
        model = open_clip.create_model(architecture, device=options.device)
    finally:
        logging.root.setLevel(level)
    tokenizer = open_clip.get_tokenizer(architecture)
    dim = int(open_clip.get_model_config(architecture)["embed_dim"])
    return OpenClipEncoder(model, tokenizer, name=spec, dim=dim, options=options)


def _download(spec: str, published: dict[str, Any]) -> str:
    """Return the file with published weights, from the cache or downloaded."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, file = os.path.split(published.get("hf_hub", ""))
    if not repository:  # a local file, or an address outside the hub
        return str(open_clip.download_pretrained(published))
    names = [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]

    def load(local: bool) -> str:
        if not local:
            return str(open_clip.download_pretrained(published))
        paths = (try_to_load_from_cache(repository, name) for name in names)
        for path in paths:
            if isinstance(path, str):
                return path
        raise LocalEntryNotFoundError(f"no {' or '.join(names)} in the cache")

    return cache_first(spec, repository, "open_clip:FOLDER", load)


def _tokenizer(spec: str, architecture: str) -> Any:
    import open_clip

    config = open_clip.get_model_config(architecture) or {}
    repository = config.get("text_cfg", {}).get("hf_tokenizer_name")
    if architecture.startswith("local-dir:") or not repository:
        return open_clip.get_tokenizer(architecture)
    return cache_first(
        spec,
        repository,
        "open_clip:FOLDER",
        lambda local: open_clip.get_tokenizer(architecture, local_files_only=local),
    )


def _checked(spec: str, load: Callable[[], Any]) -> Any:
    """Call ``load``, and explain weights that do not fit the architecture."""
    from safetensors import SafetensorError

    try:
        return load()
    # From torch's load_state_dict, open_clip's resizing of positions, or a damaged file.
    except (RuntimeError, AssertionError, SafetensorError) as error:
        raise ValueError(
            f"encoder={spec!r}: the weights do not fit this architecture: {error}"
        ) from error


def _check_folder(folder: str) -> None:
    names = set(os.listdir(folder))
    missing = {"open_clip_config.json", "open_clip_model.safetensors"} - names
    if not missing:
        return
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    advice = f"; it holds {pickles[0]}, but " + CONVERT.format(pickles[0]) if pickles else ""
    if "config.json" in names:
        advice += f"; for the transformers model in it write encoder={folder!r}"
    raise ValueError(f"open_clip folder {folder!r} lacks {', '.join(sorted(missing))}{advice}")


def _check_architecture(spec: str, architecture: str) -> None:
    import open_clip

    if not architecture or architecture.startswith((".", "~")):
        raise ValueError(f"encoder={spec!r}: there is no such folder")
    models = open_clip.list_models()
    if architecture not in models:
        near = difflib.get_close_matches(architecture, models, n=5)
        raise ValueError(
            f"encoder={spec!r}: open_clip has no model {architecture!r};"
            f" similar: {', '.join(near) or 'none'}. open_clip.list_models() lists all"
        )


def _check_file(spec: str, architecture: str, weights: str) -> str:
    import open_clip

    if weights.endswith(PICKLES):
        raise ValueError(f"encoder={spec!r}: " + CONVERT.format(weights))
    if os.path.isfile(weights) and weights.endswith(".safetensors"):
        return weights
    if "/" in weights or os.path.exists(weights) or weights.endswith(".safetensors"):
        raise ValueError(f"encoder={spec!r}: {weights!r} is not a .safetensors file that exists")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    near = difflib.get_close_matches(weights, tags, n=1)
    raise ValueError(
        f"encoder={spec!r}: {weights!r} is neither a file nor a tag of {architecture};"
        f" tags: {', '.join(tags) or 'none'}." + (f" Did you mean {near[0]!r}?" if near else "")
    )


def _published_preprocessing(spec: str, architecture: str) -> dict[str, Any]:
    """Return the preprocessing of an architecture's published weights.

    A checkpoint file does not contain it, and open_clip would assume that of OpenAI's CLIP, which
    is wrong for SigLIP and others.
    """
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    variants: list[dict[str, Any]] = []
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        config = open_clip.get_pretrained_cfg(architecture, tag)
        if (preprocessing := {key: config[key] for key in keys}) not in variants:
            variants.append(preprocessing)
    if len(variants) > 1:
        raise ValueError(
            f"encoder={spec!r}: the published weights of {architecture} differ in preprocessing,"
            " and a file does not contain it; give a folder with open_clip_config.json and"
            " open_clip_model.safetensors: 'open_clip:FOLDER'"
        )
    return variants[0] if variants else {}


def _warn_of_activation(spec: str, architecture: str) -> None:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    quick = [t for t in tags if open_clip.get_pretrained_cfg(architecture, t).get("quick_gelu")]
    if quick and f"{architecture}-quickgelu" in open_clip.list_models():
        warnings.warn(
            f"encoder={spec!r} runs with GELU. For weights trained with QuickGELU"
            f" ({', '.join(quick)}) write '{architecture}-quickgelu' for '{architecture}'",
            stacklevel=2,
        )
