"""Tiny models of the families that read the frames of a video as still images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vtc_adapters.tiny.tokenizer import CHAT_TEMPLATE, byte_tokenizer, text_sizes
from vtc_adapters.tiny.video_models import clip_and_llama, clip_sizes

SIDE, PATCH = 56, 14  # 16 patches and 4 tokens per frame


def _internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        Qwen2Config,
    )

    tokenizer = byte_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": (SIDE, SIDE),
            "patch_size": (PATCH, PATCH),
        },
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=False),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("<image>", "<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), processor


def _smolvlm() -> tuple[Any, Any]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    tokenizer = byte_tokenizer(*_IDEFICS_MARKS, "<video>")
    tokenizer.bos_token = "<|im_start|>"  # used by the chat template
    model = SmolVLMForConditionalGeneration(SmolVLMConfig(**_idefics_config(tokenizer)))
    sizes = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes, do_image_splitting=False),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=DEFAULT_CHAT_TEMPLATE,  # the stock processor replaces any other with this one
    )
    return model, processor


def _idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    bos = "<|begin_of_text|>"
    tokenizer = byte_tokenizer(*_IDEFICS_MARKS, bos=bos)
    model = Idefics3ForConditionalGeneration(Idefics3Config(**_idefics_config(tokenizer)))
    sizes = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(**sizes, do_image_splitting=False),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=bos + CHAT_TEMPLATE,
    )
    return model, processor


_IDEFICS_MARKS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")


def _idefics_config(tokenizer: Any) -> dict[str, Any]:
    from transformers import LlamaConfig

    vision = {**_SIGLIP, "image_size": SIDE, "patch_size": PATCH}
    return {
        "vision_config": vision,
        "text_config": LlamaConfig(**text_sizes(tokenizer), bos_token_id=tokenizer.bos_token_id),
        "scale_factor": 2,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
    }


_SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _gemma3() -> tuple[Any, Any]:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    tokenizer = byte_tokenizer(
        bos="<bos>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    ids = {
        name: tokenizer.convert_tokens_to_ids(getattr(tokenizer, name))
        for name in ("boi_token", "eoi_token", "image_token")
    }
    config = Gemma3Config(
        vision_config={
            **_SIGLIP,
            "model_type": "siglip_vision_model",
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        text_config={
            **text_sizes(tokenizer),
            "head_dim": 8,
            "bos_token_id": tokenizer.bos_token_id,
        },
        mm_tokens_per_image=4,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(
            size={"height": SIDE, "width": SIDE}, do_pan_and_scan=False
        ),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template="{{ bos_token }}" + CHAT_TEMPLATE.replace("<image>", "<start_of_image>"),
    )
    model = Gemma3ForConditionalGeneration(config)
    projector = model.model.multi_modal_projector
    torch.nn.init.normal_(projector.mm_input_projection_weight, std=0.25)  # its default is zero
    return model, processor


def _paligemma() -> tuple[Any, Any]:
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = byte_tokenizer("<bos>", image_token="<image>")
    tokenizer.bos_token = "<bos>"
    images = SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)
    config = PaliGemmaConfig(
        vision_config={
            **_SIGLIP,
            "model_type": "siglip_vision_model",
            "image_size": 28,
            "patch_size": PATCH,
            "projection_dim": 32,
            "vision_use_head": False,
        },
        text_config=GemmaConfig(
            **{**text_sizes(tokenizer), "vocab_size": len(tokenizer)},
            head_dim=8,
            bos_token_id=tokenizer.bos_token_id,
        ),
        projection_dim=32,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return PaliGemmaForConditionalGeneration(config), processor


def _llava() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = byte_tokenizer("<image>", "<video>", bos="<s>")
    sizes = clip_and_llama(tokenizer, SIDE, PATCH)
    del sizes["video_token_index"]
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(**clip_sizes(SIDE)),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return LlavaForConditionalGeneration(LlavaConfig(**sizes)), processor


STILL_MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "llava": _llava,
    "paligemma": _paligemma,
    "smolvlm": _smolvlm,
}
