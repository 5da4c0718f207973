"""Small frame encoders with random weights, built offline, for tests."""

from __future__ import annotations

import os
from typing import Any

import torch

from vtc.encoders.base import EncoderOptions, FrameEncoder
from vtc.encoders.hf import HFClipEncoder

IMAGE_SIZE = 32
CONTEXT = {"clip": 77, "siglip": 64}


def tiny_encoder(dim: int = 16, seed: int = 0) -> FrameEncoder:
    """Return a CLIP with random weights: equal ``dim`` and ``seed`` give equal embeddings.

    Different frames and different texts get clearly different embeddings, but a text is no nearer
    to the frames that it describes. Pass the object as ``encoder``: its name cannot be loaded.

    >>> encoder = tiny_encoder()
    >>> encoder.encode_text("a red car").shape
    torch.Size([16])
    """
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return HFClipEncoder(
        _clip(dim, seed),
        processor,
        _byte_tokenizer("clip"),
        name=f"vtc.testing.tiny_encoder(dim={dim}, seed={seed})",
        options=EncoderOptions(),
    )


def save_tiny_clip(folder: str | os.PathLike[str], dim: int = 16, seed: int = 0) -> None:
    """Save a tiny ``CLIPModel`` with its image processor and tokenizer, for tests of loading."""
    from transformers import CLIPImageProcessor

    _clip(dim, seed).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(folder)
    _byte_tokenizer("clip").save_pretrained(folder)


def save_tiny_siglip(folder: str | os.PathLike[str], dim: int = 16, seed: int = 0) -> None:
    """Save a tiny ``SiglipModel`` with its image processor and tokenizer, for tests of loading."""
    from transformers import SiglipImageProcessor

    _siglip(dim, seed).save_pretrained(folder)
    SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder)
    _byte_tokenizer("siglip").save_pretrained(folder)


def save_tiny_timm(folder: str | os.PathLike[str], dim: int = 32, seed: int = 0) -> None:
    """Save a tiny vision transformer of timm, for tests of ``"timm:FOLDER"``; it embeds no text."""
    import timm
    from timm.models import save_for_hf

    shape = {"img_size": IMAGE_SIZE, "patch_size": 8, "embed_dim": dim, "depth": 2, "num_heads": 2}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", **shape)
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=2 * weight.shape[1] ** -0.5)
    save_for_hf(
        model,
        folder,
        model_args=shape,  # the differences from the published architecture
        model_config={"pretrained_cfg": {"input_size": (3, IMAGE_SIZE, IMAGE_SIZE)}},
        safe_serialization=True,
    )


def _towers(family: str, hidden_size: int) -> dict[str, dict[str, Any]]:
    """Return the text and vision configs of CLIP or SigLIP, with the ids of `_byte_tokenizer`."""
    shape = {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {"vocab_size": 259, "max_position_embeddings": CONTEXT[family]}
    special = {"pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}
    vision = {"image_size": IMAGE_SIZE, "patch_size": 8}
    return {"text_config": shape | text | special, "vision_config": shape | vision}


def _clip(dim: int, seed: int) -> Any:
    from transformers import CLIPConfig, CLIPModel

    return _draw(CLIPModel, CLIPConfig(projection_dim=dim, **_towers("clip", 32)), seed)


def _siglip(dim: int, seed: int) -> Any:
    from transformers import SiglipConfig, SiglipModel

    return _draw(SiglipModel, SiglipConfig(**_towers("siglip", dim)), seed)


def _draw(model_class: Any, config: Any, seed: int) -> Any:
    """Build a model whose outputs depend strongly on the input, unlike the default initialisation.

    The constant parts (positions, the class and the end token) are small compared to the output
    of attention; otherwise all embeddings would point in the same direction.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = model_class(config)
        for name, weight in model.named_parameters():
            if "position" in name or "class_embedding" in name:
                weight.normal_(std=0.1)
            elif "token_embedding" in name:
                weight.normal_(std=1.0)
            elif weight.ndim > 1:
                gain = 3.0 if "self_attn" in name else 1.0
                weight.normal_(std=gain * weight[0].numel() ** -0.5)
    return model


def _byte_tokenizer(family: str) -> Any:
    """Return a tokenizer with one token per byte (0-255), then padding, begin and end tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    tokens.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>" if family == "clip" else "$A <eos>",
        special_tokens=[("<bos>", 257), ("<eos>", 258)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT[family],
    )
