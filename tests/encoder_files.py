"""Tiny open_clip, SigLIP2 and BLIP models as files, and frames and texts for frame encoders."""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
import torch

ARCHITECTURE = "vtc-tiny"
"""The name under which open_clip has the model of `save_open_clip`."""
QUERY = "What colour is the car?"
LONG_QUERY = " ".join(f"word{i}" for i in range(60))


def textured(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames ``[n, H, W, 3]`` uint8 of smooth shapes with some noise, like pictures."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    frames = []
    for _ in range(n):
        waves = [np.sin(random.uniform(1, 20) * (x * c + y * (1 - c))) for c in random.random(3)]
        frames.append(np.stack(waves, -1) * 90 + 128 + random.normal(0, 8, (height, width, 3)))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def save_open_clip(folder: Path) -> None:
    """Save a tiny open_clip model, whose architecture open_clip then has by name."""
    import open_clip
    from safetensors.torch import save_file

    tower = {"layers": 2, "width": 32}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 16, **tower},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower},
    }
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{ARCHITECTURE}.json")
    siglip_like = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": siglip_like})
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(ARCHITECTURE)
    weights = {name: value * 2.5 if value.ndim > 1 else value for name, value in
               model.state_dict().items()}  # fmt: skip
    save_file(weights, folder / "open_clip_model.safetensors")


def save_siglip2(folder: Path) -> None:
    """Save a SigLIP2 model of variable resolution: it takes patches, a mask and shapes."""
    import transformers

    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*special, "▁", *string.printable])}
    config = transformers.Siglip2Config(
        text_config=tower | {"vocab_size": len(vocabulary), "max_position_embeddings": 64},
        vision_config=tower | {"patch_size": 8, "num_patches": 16},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.Siglip2Model(config).save_pretrained(folder)
    transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(folder)
    tokenizer = transformers.Siglip2Tokenizer(vocab=vocabulary, padding_side="right")
    tokenizer.save_pretrained(folder)


def save_blip(folder: Path) -> None:
    """Save a BLIP of image-text retrieval with random weights."""
    import transformers

    from vtc.encoders.tiny import _draw

    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *string.printable, *(f"##{letter}" for letter in string.printable)]
    vocabulary = {token: i for i, token in enumerate(words)}
    numbers = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 40, **numbers}
    config = transformers.BlipConfig(
        text_config=tower | text,
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        image_text_hidden_size=16,
    )
    _draw(transformers.BlipForImageTextRetrieval, config, 0).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.BlipImageProcessor(size=size).save_pretrained(folder)
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
