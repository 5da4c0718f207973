"""The configurations of the two towers, which a released ``config.json`` lacks.

The published configurations of SigLIP-so400m-patch14-384 and CLIP ViT-B/32 are built in; other
towers need a folder with their ``config.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtc_recipes.vilamp.source import read_json

SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
CLIP_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}


def vision_config(folder: Path | None) -> Any:
    """Return the ``SiglipVisionConfig`` of the vision tower in the release.

    The release deletes the last layer of the tower that the folder describes, and its head.

    Raises:
        ValueError: The folder does not describe a SigLIP tower with at least two layers.
        FileNotFoundError: The folder has no ``config.json``.
    """
    from transformers import SiglipVisionConfig

    values: dict[str, Any] = dict(SIGLIP_SO400M)
    if folder is not None:
        values = read_json(folder / "config.json")
        kind = values.pop("model_type", None)
        if kind == "siglip":
            values = dict(values.get("vision_config") or {})
            values.pop("model_type", None)
        elif kind != "siglip_vision_model":
            raise ValueError(
                f"--vision-config {folder}: expected model_type 'siglip' or 'siglip_vision_model', "
                f"got {kind!r}"
            )
    config = SiglipVisionConfig(**{**values, "vision_use_head": False})
    if config.num_hidden_layers < 2:
        raise ValueError(
            f"--vision-config {folder}: expected num_hidden_layers >= 2, got "
            f"{config.num_hidden_layers}; the release deletes the last layer"
        )
    config.num_hidden_layers -= 1
    return config


def clip_config(folder: Path | None) -> Any:
    """Return the ``CLIPConfig`` of the frame encoder.

    Raises:
        ValueError: The folder describes another kind of model.
        FileNotFoundError: The folder has no ``config.json``.
    """
    from transformers import CLIPConfig

    if folder is None:
        config = CLIPConfig(text_config=CLIP_TEXT, vision_config=CLIP_VISION, projection_dim=512)
    else:
        values = read_json(folder / "config.json")
        if values.get("model_type") != "clip":
            raise ValueError(
                f"--clip-config {folder}: expected model_type 'clip', with both towers, got "
                f"{values.get('model_type')!r}"
            )
        config = CLIPConfig.from_dict(values)
    config.architectures = ["CLIPModel"]
    return config


def text_config(settings: dict[str, Any], vocabulary: int) -> Any:
    """Return the ``Qwen2Config`` of the language model.

    The release ignores ``rope_scaling`` in ``config.json``. The output head is written in addition
    to the embeddings, so the two are not tied.

    Args:
        settings: The released ``config.json``.
        vocabulary: The number of rows of the embeddings.
    """
    from transformers import Qwen2Config

    rope = settings.get("rope_parameters") or settings
    excluded = {
        "model_type",
        "rope_parameters",
        "rope_scaling",
        "architectures",
        "transformers_version",
    }
    names = {name for name in Qwen2Config().to_dict() if name not in excluded}
    fields = {name: value for name, value in settings.items() if name in names}
    fields |= {"vocab_size": vocabulary, "tie_word_embeddings": False}
    return Qwen2Config(**fields, rope_theta=rope.get("rope_theta", 10000.0))
