"""Towers, names, pictures and tokens of the released ViLAMP, without any checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionVideoProcessor,
)

from vtc.plugins import registry
from vtc_adapters.tiny.tokenizer import byte_tokenizer
from vtc_recipes.vilamp.layout import in_shards, tensor_places
from vtc_recipes.vilamp.processor import (
    load_clip_tokenizer,
    make_processor,
    placeholders,
    save_clip_preprocessing,
)
from vtc_recipes.vilamp.towers import clip_config, text_config, vision_config

QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_theta": 1000000.0,
}
DOCUMENTED = {
    "model.embed_tokens.weight": (151700, 3584),
    "model.norm.weight": (3584,),
    "lm_head.weight": (151700, 3584),
    "model.image_newline": (3584,),
    "model.layers.27.self_attn.k_proj.bias": (512,),
    "model.mm_projector.0.weight": (3584, 1152),
    "model.mm_projector.2.bias": (3584,),
    "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight": (
        1152, 3, 14, 14,
    ),
    "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight": (
        729, 1152,
    ),
    "model.vision_tower.vision_tower.vision_model.encoder.layers.25.mlp.fc1.weight": (4304, 1152),
    "model.vision_tower.vision_tower.vision_model.post_layernorm.weight": (1152,),
    "model.frame_selector.model.logit_scale": (),
    "model.frame_selector.model.text_projection.weight": (512, 512),
    "model.frame_selector.model.visual_projection.weight": (512, 768),
    "model.frame_selector.model.vision_model.embeddings.patch_embedding.weight": (768, 3, 32, 32),
    "model.composer_projector.linear_iq.weight": (3584, 3584),
    "model.composer_projector.linear_q.weight": (3584, 512),
    "model.composer_projector.linear_k.bias": (3584,),
    "model.composer_projector.tau": (),
}  # fmt: skip


@pytest.fixture(scope="module")
def full_size():
    config = LlavaOnevisionConfig(
        text_config=text_config(QWEN2_7B, 151700), vision_config=vision_config(None)
    )
    merger = registry.build_part("merger", {"name": "dfm", "projection": "learned"})
    return tensor_places(config, clip_config(None), merger)


def test_the_full_size_tensors_are_those_documented(full_size):
    assert {name: full_size[name].shape for name in DOCUMENTED} == DOCUMENTED
    vision = "model.vision_tower.vision_tower.vision_model."
    assert not any(name.startswith((f"{vision}encoder.layers.26", f"{vision}head"))
                   for name in full_size)  # fmt: skip
    composer = [p.shape for n, p in full_size.items() if "composer_projector" in n]
    assert sum(torch.Size(shape).numel() for shape in composer) == 40_384_513


def test_names_on_disk_are_those_of_published_checkpoints(full_size):
    for released, name in {
        "model.layers.3.mlp.up_proj.weight": "language_model.model.layers.3.mlp.up_proj.weight",
        "lm_head.weight": "language_model.lm_head.weight",
        "model.image_newline": "image_newline",
        "model.mm_projector.2.weight": "multi_modal_projector.linear_2.weight",
        "model.vision_tower.vision_tower.vision_model.post_layernorm.bias": (
            "vision_tower.vision_model.post_layernorm.bias"
        ),
        "model.composer_projector.linear_q.bias": "vtc.merger.linear_q.bias",
        "model.frame_selector.model.logit_scale": "logit_scale",
    }.items():
        assert full_size[released].name == name


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_describes_another_tower_whole(tmp_path, nested):
    tower = {"hidden_size": 32, "num_hidden_layers": 4, "image_size": 70, "patch_size": 14}
    config = {"model_type": "siglip", "vision_config": tower, "text_config": {"hidden_size": 8}}
    if not nested:
        config = {"model_type": "siglip_vision_model", **tower}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = vision_config(tmp_path)
    assert (found.hidden_size, found.num_hidden_layers, found.image_size) == (32, 3, 70)
    assert not found.vision_use_head
    tower["num_hidden_layers"] = 1
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "siglip_vision_model", **tower})
    )
    with pytest.raises(ValueError, match="expected num_hidden_layers >= 2, got 1"):
        vision_config(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match="is not valid JSON"):
        vision_config(tmp_path)


def test_rope_scaling_is_ignored_as_in_the_release():
    scaled = {**QWEN2_7B, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    assert text_config(scaled, 100).rope_parameters == {
        "rope_theta": 1000000.0,
        "rope_type": "default",
    }


def test_frames_are_resized_without_regard_to_their_aspect():
    config = LlavaOnevisionConfig(vision_config=vision_config(None))
    processor = make_processor(byte_tokenizer("<image>", "<video>"), config)
    frame = np.random.default_rng(0).integers(0, 256, (9, 16, 3)).repeat(40, 0).repeat(40, 1)
    frame = frame.astype(np.uint8)
    squashed = Image.fromarray(frame).resize((384, 384), Image.Resampling.BICUBIC)
    wanted = torch.from_numpy(np.array(squashed)).permute(2, 0, 1) / 127.5 - 1
    assert isinstance(processor.video_processor, LlavaOnevisionVideoProcessor)
    found = processor.video_processor(
        [torch.from_numpy(frame[None]).permute(0, 3, 1, 2)],
        do_sample_frames=False,
        return_tensors="pt",
    )["pixel_values_videos"][0, 0]
    assert found.shape == wanted.shape == (3, 384, 384)
    assert (found - wanted).abs().max() <= 2.1 / 127.5  # a level or two beside Pillow


def test_the_frame_encoder_cuts_the_centre_out_and_reads_as_clip_does(tmp_path):
    clip = clip_config(None)
    save_clip_preprocessing(tmp_path, clip, load_clip_tokenizer(clip, None))
    frame = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).repeat(8, 0).repeat(8, 1)
    picture = Image.fromarray(frame.astype(np.uint8))
    size = picture.resize((int(224 * 400 / 240), 224), Image.Resampling.BICUBIC)
    left = (size.width - 224) // 2
    cut = np.array(size.crop((left, 0, left + 224, 224))) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    wanted = torch.from_numpy((cut - mean) / std).permute(2, 0, 1).float()
    found = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")
    assert (found["pixel_values"][0] - wanted).abs().max() < 0.04  # two levels of 255, over std
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    published = SimpleTokenizer()
    for text in ("a photo of a cat", "What's in  the Box?! 123", "un été à l'île, naïve 東京 🎈"):
        assert tokenizer(text).input_ids == [49406, *published.encode(text), 49407]


def test_a_small_clip_without_its_tokenizer_is_refused(tmp_path):
    config = clip_config(None)
    config.text_config.vocab_size = 300
    for folder in (None, tmp_path):
        with pytest.raises(ValueError, match="of 300 tokens, .* 49408: put the tokenizer"):
            load_clip_tokenizer(config, folder)


def test_placeholders():
    assert placeholders(None, 152064) == (151646, 151647)
    assert placeholders(None, 151646) == (151646, 151647)
    assert placeholders(None, 300) == (300, 301)
    tokenizer = byte_tokenizer("<image>", "<video>")
    assert placeholders(tokenizer, 10**6) == (259, 260)


def test_shards_keep_the_order_and_the_limit():
    sizes = {"a": 3, "b": 4, "c": 9, "d": 1, "e": 7}
    assert list(in_shards(sizes, 8)) == [["a", "b"], ["c"], ["d", "e"]]
    assert list(in_shards({}, 8)) == []
