"""Build the tiny models: a LLaVA-OneVision and a CLIP of Hugging Face classes, with processors."""

from __future__ import annotations

from typing import Any

import torch

from vtc_recipes.synthetic import vocabulary
from vtc_recipes.synthetic.stories import story_vocabulary

SIDE = 48
"""Height and width of a frame in pixels."""
PATCH = 8
GRID = SIDE // PATCH
WIDTH = 96
"""Width of the vision towers."""
USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
CONTEXT = 24
"""Maximum length of the dual encoder's texts in tokens."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% elif part.type == 'video' %}<video>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def word_tokenizer(end_texts: bool = False) -> Any:
    """Build a tokenizer with a token per word of the synthetic world and per chat marker.

    Args:
        end_texts: Append the end mark to every text; a CLIP text tower pools there.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = [PAD, END, USER, ASSISTANT, "<image>", "<video>", "<|unknown|>"]
    ids = {word: number for number, word in enumerate([*marks, *vocabulary(), *story_vocabulary()])}
    raw = Tokenizer(models.WordLevel(ids, unk_token="<|unknown|>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if end_texts:
        raw.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, ids[END])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=END,
        pad_token=PAD,
        unk_token="<|unknown|>",
        extra_special_tokens={
            "user_token": USER,
            "assistant_token": ASSISTANT,
            "image_token": "<image>",
            "video_token": "<video>",
        },
        padding_side="right" if end_texts else "left",
        model_max_length=CONTEXT if end_texts else 65536,
        clean_up_tokenization_spaces=False,
    )


def build_vlm(seed: int = 0) -> tuple[Any, Any]:
    """Build a ``LlavaOnevisionForConditionalGeneration`` with 1.6 M random weights.

    A frame has 36 patches, which are pooled to 9 tokens in keyframes.

    Returns:
        The model and its processor.
    """
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = word_tokenizer()
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_vision_sizes(), vision_use_head=False),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=65536,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
        tie_word_embeddings=True,
    )
    pixels = {
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            **pixels, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=GRID**2,
        vision_feature_select_strategy="full",
        chat_template=_CHAT_TEMPLATE,
    )
    return _seeded(LlavaOnevisionForConditionalGeneration, config, seed), processor


def build_dual_encoder(seed: int = 0) -> tuple[Any, Any, Any]:
    """Build a ``CLIPModel`` with 0.4 M random weights, its image processor and its tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = word_tokenizer(end_texts=True)
    config = CLIPConfig(
        vision_config=_vision_sizes(),
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=64,
    )
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return _seeded(CLIPModel, config, seed), image_processor, tokenizer


def copy_tower(vlm: Any, dual_encoder: Any) -> None:
    """Copy a VLM's tower into the dual encoder's vision side, which has the same sizes.

    The class token and the first normalisation, which exist only in CLIP, are unchanged.
    """
    tower = vlm.model.vision_tower.state_dict()
    tower = {name.removeprefix("vision_model."): weight for name, weight in tower.items()}
    vision = dual_encoder.vision_model
    vision.encoder.load_state_dict(
        {
            name.removeprefix("encoder."): weight
            for name, weight in tower.items()
            if name.startswith("encoder.")
        }
    )
    embeddings = vision.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(tower["embeddings.patch_embedding.weight"])
        # CLIP's patch embedding has no bias, so the bias is added to the positions.
        positions = tower["embeddings.position_embedding.weight"]
        bias = tower["embeddings.patch_embedding.bias"]
        embeddings.position_embedding.weight[1:].copy_(positions + bias)


def _vision_sizes() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "hidden_act": "gelu_pytorch_tanh",
    }


def _seeded(model_class: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config)
