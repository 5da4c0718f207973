"""Converted checkpoints against a slow float64 transcription of what the release computes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import vtc
from vtc.pipeline.prepare import prepare
from vtc.testing.models import redraw
from vtc.testing.tokenizer import byte_tokenizer
from vtc_recipes.vilamp import convert as converting
from vtc_recipes.vilamp.convert import convert

SIDE, PATCHES, DIM, CLIP_DIM = 42, 9, 32, 16
QUESTION = "What is on the table?"


class Release:
    """The modules of a tiny release in float64, and its folder in the released format.

    The vision tower keeps the last layer that the folder lacks: its output is not looked at.
    """

    def __init__(self, root, seed=0, **settings):
        torch.manual_seed(seed)
        tower = SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=14,
        )
        tokenizer = byte_tokenizer()
        text = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=DIM,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_theta=5000.0,
            eos_token_id=tokenizer.eos_token_id,
        )
        self.folder, self.vision, self.clip_folder = root / "released", root / "siglip", root / "c"
        self.tower, self.language = SiglipVisionModel(tower), Qwen2ForCausalLM(text)
        self.projector = torch.nn.Sequential(
            torch.nn.Linear(16, DIM), torch.nn.GELU(), torch.nn.Linear(DIM, DIM)
        )
        self.composer = torch.nn.ModuleDict(
            {f"linear_{n}": torch.nn.Linear(DIM, DIM) for n in ("iq", "ik", "k")}
            | {"linear_q": torch.nn.Linear(CLIP_DIM, DIM)}
        )
        self.tau = torch.tensor(0.03)
        self.newline = torch.randn(DIM)
        vtc.testing.save_tiny_clip(root / "drawn", dim=CLIP_DIM, seed=seed)
        self.clip = CLIPModel.from_pretrained(root / "drawn")
        for module in (self.tower, self.language, self.projector, self.composer):
            redraw(module)
            for name, weight in module.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(weight, std=0.1)
        vtc.testing.save_tiny_clip(self.clip_folder, dim=CLIP_DIM, seed=99)  # not these weights
        tower.save_pretrained(self.vision)
        self.settings = {
            **text.to_dict(),
            "model_type": "llava_qwen",
            "architectures": ["LlavaQwenForCausalLM"],
            "rope_theta": 5000.0,
            "rope_scaling": {"type": "dynamic", "factor": 4.0},  # which the release ignores
            "composer_type": "sig_pooling",
            "max_frame_num": 5,
            "f2f_thrd": 0.85,
            "f2t_thrd": 0.2,
            **settings,
        }
        for rope in ("rope_parameters", "dtype"):
            self.settings.pop(rope, None)
        self.write(self.tensors())
        tokenizer.save_pretrained(self.folder)
        for module in (self.tower, self.language, self.projector, self.composer, self.clip):
            module.double().eval()

    def tensors(self):
        """By the documented names; the last layer and the head of the tower are deleted."""
        named = {k: v for k, v in self.language.state_dict().items()}
        for name, tensor in self.tower.state_dict().items():
            name = name.removeprefix("vision_model.")
            if not name.startswith(("encoder.layers.2.", "head.")):
                named[f"model.vision_tower.vision_tower.vision_model.{name}"] = tensor
        for name, tensor in self.projector.state_dict().items():
            named[f"model.mm_projector.{name}"] = tensor
        for name, tensor in self.clip.state_dict().items():
            named[f"model.frame_selector.model.{name}"] = tensor
        for name, tensor in self.composer.state_dict().items():
            named[f"model.composer_projector.{name}"] = tensor
        named["model.composer_projector.tau"] = self.tau
        named["model.image_newline"] = self.newline
        return {name: tensor.detach().float().contiguous() for name, tensor in named.items()}

    def write(self, tensors, shards=3):
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(self.settings))
        names = sorted(tensors)
        holder = {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[i::shards]}
            save_file(part, self.folder / file, metadata={"format": "pt"})
            holder |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": holder}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def convert(self, target, **options):
        options = {"vision": self.vision, "clip": self.clip_folder, **options}
        return convert(str(self.folder), target, **options)

    # --- what the release computes, step by step, with all frames and the N x N cosines

    def frame_features(self, frames):
        inputs = CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )(list(frames.transpose(0, 3, 1, 2)), input_data_format="channels_first")
        pixels = torch.as_tensor(np.stack(inputs["pixel_values"])).double()
        return self.clip.get_image_features(pixels).pooler_output

    def text_features(self, question):
        ids = torch.tensor([[257, *byte_ids(question), 258]])
        return self.clip.get_text_features(ids).pooler_output[0]

    def dense(self, frames):
        """[N, 9, D]: the projected output of the second of three layers."""
        pixels = torch.as_tensor(frames.transpose(0, 3, 1, 2)).double() / 127.5 - 1
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        return self.projector(states[-2])

    def sequence(self, frames, question):
        """The visual tokens in order, and the keyframes."""
        images, text = self.frame_features(frames), self.text_features(question)
        keys = slow_selection(
            F.cosine_similarity(images[:, None], images[None], dim=-1).tolist(),
            F.cosine_similarity(images, text[None], dim=-1).tolist(),
            self.settings["max_frame_num"],
            self.settings["f2f_thrd"],
            self.settings["f2t_thrd"],
        )
        dense = self.dense(frames)
        pieces = []
        for n, patches in enumerate(dense):
            if n in keys:
                grid = patches.T.reshape(1, DIM, 3, 3)
                small = F.interpolate(grid, (2, 2), mode="bilinear", align_corners=False)
                pieces.append(small[0].flatten(1).T)
                continue
            before = [ordinal for ordinal, key in enumerate(keys) if key < n]
            reference = dense[before[-1]] if before else patches
            pieces.append(self.slow_merge(patches, reference, text)[None])
        return torch.cat([*pieces, self.newline.double()[None]]), keys

    def slow_merge(self, patches, reference, text):
        c = self.composer
        scores = [
            torch.cosine_similarity(c["linear_q"](text), c["linear_iq"](x), dim=0)
            - torch.cosine_similarity(c["linear_k"](y), c["linear_ik"](x), dim=0)
            for x, y in zip(patches, reference, strict=True)
        ]
        exact = [math.exp((s.item() - max(scores).item()) / self.tau.item()) for s in scores]
        return sum(w / math.fsum(exact) * x for w, x in zip(exact, patches, strict=True))

    def logits(self, frames, question):
        """Of the whole prompt, the video's tokens in the place of its mark."""
        before, after = prompt(question).split("<video>")
        table = self.language.get_input_embeddings()
        visual, _ = self.sequence(frames, question)
        ids = [torch.tensor(byte_ids(text)) for text in (before, after)]
        inputs = torch.cat([table(ids[0]), visual, table(ids[1])])
        return self.language(inputs_embeds=inputs[None]).logits[0]


def prompt(question):
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    user = f"<|im_start|>user\n<video>\n{question}<|im_end|>\n"
    return system + user + "<|im_start|>assistant\n"


def byte_ids(text):
    return byte_tokenizer()(text, add_special_tokens=False)["input_ids"]


def slow_selection(alike, relevance, keyframes, f2f, f2t):
    """The walk, then the gaps: with explicit sets and lists."""
    chosen, visited = set(), set()
    for n in sorted(range(len(relevance)), key=lambda n: (-relevance[n], n)):
        if len(chosen) == keyframes or relevance[n] < f2t:
            break
        if n not in visited:
            chosen.add(n)
            visited |= {m for m, cosine in enumerate(alike[n]) if cosine > f2f}
    spare, gaps, run = keyframes - len(chosen), [], []
    for n in [*range(len(relevance)), None]:
        if n is not None and n not in chosen:
            run.append(n)
        elif run:
            gaps.append(run)
            run = []
    sizes = range(1, len(relevance) + 1)
    least = next(d for d in sizes if sum(math.ceil(len(g) / d) - 1 for g in gaps) <= spare)
    for gap in gaps:
        count = math.ceil(len(gap) / least) - 1
        step = math.ceil(len(gap) / (count + 1))
        chosen |= {gap[0] + step * (i + 1) for i in range(count)}
    for n in reversed(range(len(relevance))):
        if len(chosen) < keyframes:
            chosen.add(n)
    return sorted(chosen)


def scenes(count, seed=0):
    """Frames of a few scenes, alike within each: [N, 42, 42, 3] uint8."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (6, 6, 6, 3)).repeat(7, 1).repeat(7, 2)
    frames = pictures[rng.integers(0, 6, count)] + rng.integers(-12, 13, (count, SIDE, SIDE, 3))
    return frames.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release(tmp_path_factory.mktemp("vilamp"))


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory):
    target = tmp_path_factory.mktemp("out") / "converted"
    release.convert(target)
    return target


@pytest.fixture(scope="module")
def opened(converted):
    model = vtc.from_pretrained(converted, dtype=torch.float64)
    model.vtc.encoder.to(dtype=torch.float64)  # its rounding counts 1 / temperature times
    return model


def ask_inputs(model, frames, question=QUESTION):
    return vtc.prepare_inputs(model, model.vtc.processor, frames, question)


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_selection_sequence_and_logits_are_those_of_the_release(release, opened, seed):
    frames = scenes(17, seed)
    inputs = ask_inputs(opened, frames)
    expected, keys = release.sequence(frames, QUESTION)
    prepared = prepare(opened, opened.vtc, inputs)
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    assert [frame.index for frame in prepared.report.videos[0].keyframes] == keys
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    logits = opened(**inputs).logits[0]
    reference = release.logits(frames, QUESTION)
    vocabulary = reference.shape[1]
    assert reference.std() > 1
    torch.testing.assert_close(logits[:, :vocabulary], reference, rtol=0, atol=1e-3)
    assert (logits[:, vocabulary:] < logits[:, :vocabulary].amax(1, keepdim=True)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"max_frame_num": 1},
        {"max_frame_num": 7, "f2f_thrd": 0.5},
        {"max_frame_num": 6, "f2t_thrd": 0.99},  # no frame is relevant: all by the gaps
        {"max_frame_num": 9, "f2t_thrd": -1.0, "f2f_thrd": 0.99},
        {"max_frame_num": 40},
    ],
    ids=str,
)
@torch.no_grad()
def test_selection_at_other_settings(release, opened, monkeypatch, options):
    frames = scenes(23, seed=5)
    monkeypatch.setattr(release, "settings", release.settings | options)
    names = {
        "max_frame_num": "keyframes",
        "f2f_thrd": "similarity_threshold",
        "f2t_thrd": "relevance_threshold",
    }
    chosen = {names[name]: value for name, value in options.items()}
    base = {"fill": "gaps", "similarity_threshold": 0.85, "relevance_threshold": 0.2}
    monkeypatch.setattr(opened.vtc, "selector", vtc.selector("dks", **base | chosen))
    expected, keys = release.sequence(frames, QUESTION)
    prepared = prepare(opened, opened.vtc, ask_inputs(opened, frames))
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    assert [frame.index for frame in prepared.report.videos[0].keyframes] == keys
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_prompt_and_the_settings_are_those_of_the_release(converted, opened):
    ids = ask_inputs(opened, scenes(3))["input_ids"][0]
    assert opened.vtc.processor.tokenizer.decode(ids) == prompt(QUESTION)
    saved = json.loads((converted / "vtc.json").read_text())
    assert saved["selector"] == {
        "name": "dks",
        "keyframes": 5,
        "similarity_threshold": 0.85,
        "fill": "gaps",
        "relevance_threshold": 0.2,
    }
    assert saved["merger"] == {
        "name": "dfm",
        "redundancy_weight": 1.0,
        "temperature": pytest.approx(0.03),
        "projection": "learned",
        "reference": "released",
        "normalise_query": False,
    }
    config = json.loads((converted / "config.json").read_text())
    assert config["text_config"]["rope_parameters"] == {
        "rope_theta": 5000.0,
        "rope_type": "default",
    }
    assert config["vision_config"]["num_hidden_layers"] == 2
    generation = json.loads((converted / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    assert generation["eos_token_id"] == [opened.vtc.processor.tokenizer.eos_token_id]


def test_the_stock_class_opens_it_alone(converted):
    model, report = LlavaOnevisionForConditionalGeneration.from_pretrained(
        converted, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert all(key.startswith("vtc.merger.") for key in report["unexpected_keys"])
    assert model.config.text_config.vocab_size == len(byte_tokenizer()) + 2


@torch.no_grad()
def test_saved_again_it_is_the_same_and_moves_with_its_frame_encoder(
    release, opened, converted, tmp_path
):
    vtc.save_pretrained(opened, tmp_path / "again")
    (tmp_path / "again").rename(tmp_path / "moved")
    again = vtc.from_pretrained(tmp_path / "moved", dtype=torch.float64)
    again.vtc.encoder.to(dtype=torch.float64)
    assert again.vtc.encoder.name == str(tmp_path / "moved" / "frame_encoder")
    assert again.vtc.encoder.long_text == opened.vtc.encoder.long_text == "truncate"
    frames = scenes(12)
    inputs = ask_inputs(opened, frames)
    logits = again(**ask_inputs(again, frames)).logits
    torch.testing.assert_close(logits, opened(**inputs).logits, rtol=0, atol=1e-12)
    vtc.save_pretrained(again, tmp_path / "moved")  # onto itself: the encoder is there already
    assert vtc.from_pretrained(tmp_path / "moved").vtc.encoder.dim == CLIP_DIM


@torch.no_grad()
def test_the_papers_reference_is_one_option_away(release, converted):
    saved = json.loads((converted / "vtc.json").read_text())["merger"]
    model = vtc.from_pretrained(
        converted, merger={**saved, "reference": "preceding"}, dtype=torch.float64
    )
    model.vtc.encoder.to(dtype=torch.float64)
    frames = scenes(17)
    _, keys = release.sequence(frames, QUESTION)
    dense, text = release.dense(frames), release.text_features(QUESTION)
    prepared = prepare(model, model.vtc, ask_inputs(model, frames))
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    at, compared = 0, 0
    for n in range(len(frames)):
        before = [key for key in keys if key < n]
        if n not in keys and before:
            expected = release.slow_merge(dense[n], dense[before[-1]], text)
            torch.testing.assert_close(found[at], expected, rtol=0, atol=1e-5)
            compared += 1
        at += 4 if n in keys else 1
    assert compared > 3


@torch.no_grad()
def test_average_pooling_is_the_mean_of_all_patches(tmp_path):
    release = Release(tmp_path, composer_type="average_pooling")
    tensors = {k: v for k, v in release.tensors().items() if "composer_projector" not in k}
    release.write(tensors)
    assert release.convert(tmp_path / "out").merger == {"name": "mean_pool"}
    model = vtc.from_pretrained(tmp_path / "out", dtype=torch.float64)
    frames = scenes(8)
    prepared = prepare(model, model.vtc, ask_inputs(model, frames))
    found = prepared.inputs["mm_encoder_outputs"]["video"].pooler_output[0]
    keys = [frame.index for frame in prepared.report.videos[0].keyframes]
    means = [m.mean(0) for n, m in enumerate(release.dense(frames)) if n not in keys]
    at = [n + 3 * sum(key < n for key in keys) for n in range(8) if n not in keys]
    torch.testing.assert_close(found[at], torch.stack(means), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_tied_head_is_written_apart(tmp_path):
    release = Release(tmp_path, tie_word_embeddings=True)
    tensors = release.tensors()
    del tensors["lm_head.weight"]
    release.write(tensors)
    release.convert(tmp_path / "out")
    model = vtc.from_pretrained(tmp_path / "out")
    rows = len(byte_tokenizer())
    embeddings = model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, embeddings)
    assert torch.equal(embeddings[:rows], tensors["model.embed_tokens.weight"])


def test_small_files_are_written_one_at_a_time(release, converted, tmp_path, monkeypatch):
    limit = 20_000
    largest = []
    plain = safetensors.torch.save_file

    def watched(tensors, *args, **kwargs):
        largest.append(sum(t.nbytes for t in tensors.values()) if len(tensors) > 1 else 0)
        plain(tensors, *args, **kwargs)

    monkeypatch.setattr(safetensors.torch, "save_file", watched)
    monkeypatch.setattr(converting, "SHARD_BYTES", limit)
    result = release.convert(tmp_path / "out")
    # The embeddings get two rows more than they had when the files were planned.
    assert len(result.files) > 5 and max(largest) <= limit + 2 * DIM * 4
    whole, shards = vtc.from_pretrained(converted), vtc.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, shards.state_dict()[k]) for k, a in whole.state_dict().items())
    kept = tmp_path / "out" / "frame_encoder"
    one = CLIPModel.from_pretrained(kept).state_dict()
    two = CLIPModel.from_pretrained(converted / "frame_encoder").state_dict()
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())


def test_half_precision_stays_as_it_is(tmp_path):
    release = Release(tmp_path)
    release.write({name: tensor.half() for name, tensor in release.tensors().items()})
    result = release.convert(tmp_path / "out")
    assert result.merger["temperature"] == torch.tensor(0.03).half().item()
    model = vtc.from_pretrained(tmp_path / "out", dtype="auto")
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}


def test_a_source_without_tokenizer_takes_one_or_says_so(tmp_path):
    release = Release(tmp_path)
    for file in release.folder.glob("*token*"):
        file.rename(tmp_path / "c" / f"language_{file.name}")
    result = release.convert(tmp_path / "out")
    assert "the source has no tokenizer, so no processor was written" in result.notes[0]
    assert not result.has_processor
    model = vtc.from_pretrained(tmp_path / "out")
    assert model.vtc.processor is None
    assert model.config.video_token_id == len(byte_tokenizer()) + 1
    refused(
        release, tmp_path / "other", "there is no tokenizer.json", tokenizer=tmp_path / "siglip"
    )
    byte_tokenizer().save_pretrained(tmp_path / "language")
    release.convert(tmp_path / "other", tokenizer=tmp_path / "language")
    assert vtc.from_pretrained(tmp_path / "other").vtc.processor is not None


# --- what is refused, before anything is written


def spoil(release, tensors, name):
    """Make one thing wrong; returns what the error must say."""
    layer = "model.layers.1.mlp.up_proj.weight"
    if name == "missing":
        del tensors[layer]
        return f"1 missing: {layer}"
    if name == "unexpected":
        tensors["model.vision_resampler.query"] = torch.zeros(2)
        return "1 unexpected: model.vision_resampler.query"
    if name == "misshapen":
        tensors[layer] = torch.zeros(3, DIM)
        return rf"1 of another shape: {layer} \[3, 32\] instead of \[64, 32\]"
    if name == "the deleted layer":
        first = "model.vision_tower.vision_tower.vision_model.encoder.layers.0."
        for key in [key for key in tensors if key.startswith(first)]:
            tensors[key.replace("layers.0.", "layers.2.")] = tensors[key].clone()
        return r"16 unexpected: model.vision_tower\S*layers.2."
    if name == "an untied head":
        del tensors["lm_head.weight"]
        return "1 missing: lm_head.weight"
    if name == "quantised":
        tensors[layer] = tensors[layer].to(torch.int8)
        return f"{layer} in model-.* is of dtype I8; allowed are F64"
    if name == "a negative temperature":
        tensors["model.composer_projector.tau"] = torch.tensor(-0.01)
        return "merger 'dfm': expected temperature to be a number in .*, got -0.0"
    raise ValueError(name)


WRONG_TENSORS = [
    "missing",
    "unexpected",
    "misshapen",
    "the deleted layer",
    "an untied head",
    "quantised",
    "a negative temperature",
]
WRONG_SETTINGS = {
    "model_type": ("qwen2", "model_type 'qwen2'; allowed is 'llava_qwen'"),
    "composer_type": ("single_token", "'single_token' is not supported, as it makes a frame's"),
    "activate_frame_selector": (False, "activate_frame_selector=False is not supported"),
    "frame_selector_type": ("ClusterFrameSelector", "allowed is 'SeqFrameSelector'"),
    "activate_pre_fusion": (True, "activate_pre_fusion=True is not supported"),
    "mm_spatial_pool_mode": ("average", "mm_spatial_pool_mode='average' .* 'bilinear'"),
    "max_frame_num": (
        0,
        "selector 'dks': expected keyframes to be a whole number of at least 1, got 0",
    ),
    "f2f_thrd": (1.5, "selector 'dks': expected similarity_threshold to be .*, got 1.5"),
    "vocab_size": (10, r"model.embed_tokens.weight \[\d+, 32\] instead of \[10, 32\]"),
    "hidden_size": (64, "of another shape: .* and .* more"),
}


@pytest.fixture
def spoilt(tmp_path):
    (tmp_path / "made").mkdir()
    return Release(tmp_path / "made")


def refused(release, target, message, error=ValueError, **options):
    with pytest.raises(error, match=message):
        release.convert(target, **options)
    assert not target.exists() and not list(target.parent.glob(".*partial*"))


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_listed(spoilt, tmp_path, name):
    tensors = spoilt.tensors()
    message = spoil(spoilt, tensors, name)
    spoilt.write(tensors)
    refused(spoilt, tmp_path / "out", message)


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_settings_that_nothing_here_computes_are_refused(spoilt, tmp_path, name):
    value, message = WRONG_SETTINGS[name]
    tensors = spoilt.tensors()
    spoilt.settings[name] = value
    spoilt.write(tensors)
    refused(spoilt, tmp_path / "out", message)


def test_without_a_composer_type_the_tensors_tell(spoilt, tmp_path):
    tensors = spoilt.tensors()
    del spoilt.settings["composer_type"]
    spoilt.write(tensors)
    notes = spoilt.convert(tmp_path / "out").notes
    assert "names no composer_type; taken for 'sig_pooling' by the tensors" in notes[0]
    tensors = {k: v for k, v in tensors.items() if "composer" not in k}
    spoilt.write(tensors)
    refused(spoilt, tmp_path / "other", "composer_type='single_token' is not supported")


def test_a_scaled_rope_in_the_settings_is_left_alone(spoilt, tmp_path):
    """The release ignores it; transformers fails to read it beside the tokenizer."""
    spoilt.settings["rope_scaling"] = {"type": "yarn", "factor": 4.0}
    spoilt.write(spoilt.tensors())
    assert spoilt.convert(tmp_path / "out").has_processor


def test_a_lost_index_is_named(spoilt, tmp_path):
    spoilt.write(spoilt.tensors())
    (spoilt.folder / "model.safetensors.index.json").unlink()
    refused(spoilt, tmp_path / "out", "lacks model.safetensors.index.json: download it too")


def test_pickled_weights_are_read_only_if_asked_for(spoilt, converted, tmp_path):
    tensors = spoilt.tensors()
    for file in spoilt.folder.glob("*.safetensors*"):
        file.unlink()
    refused(spoilt, tmp_path / "out", "holds no model.safetensors", FileNotFoundError)
    torch.save(tensors, spoilt.folder / "pytorch_model.bin")
    refused(spoilt, tmp_path / "out", "pickled weights .*may run code .* --allow-pickle")
    spoilt.convert(tmp_path / "out", allow_pickle=True)
    one, two = (vtc.from_pretrained(f).state_dict() for f in (converted, tmp_path / "out"))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    torch.save({**tensors, "more": Path()}, spoilt.folder / "pytorch_model.bin")
    message = "pytorch_model.bin holds something else than tensors"
    refused(spoilt, tmp_path / "other", message, allow_pickle=True)


def test_towers_that_are_none_of_these_are_named(release, tmp_path):
    target = tmp_path / "out"
    refused(release, target, "misshapen|of another shape", vision=None)
    refused(release, target, "vision-config .*: model_type is 'clip'", vision=release.clip_folder)
    refused(release, target, "clip-config .*: model_type is 'siglip_v", clip=release.vision)
    refused(release, target, "holds no config.json", FileNotFoundError, clip=tmp_path)


def test_a_target_with_something_in_it_stays_as_it_is(release, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        release.convert(tmp_path / "mine")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    release.convert(tmp_path / "empty")
    assert vtc.wrapped.saving.is_saved_by_vtc(tmp_path / "empty")


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing(release, tmp_path, error):
    def interrupt(file):
        assert list(tmp_path.glob(".out.partial-*")) and not (tmp_path / "out").exists()
        raise error

    refused(release, tmp_path / "out", str(error) or None, type(error), wrote=interrupt)


def test_sources_that_are_none(release, tmp_path):
    for source in ("nowhere", "./no/where", str(tmp_path / "no")):
        with pytest.raises(ValueError, match="neither a folder here nor of the form OWNER/NAME"):
            convert(source, tmp_path / "out")
    shard = next(release.folder.glob("*.safetensors"))
    shard.rename(tmp_path / "aside")
    refused(release, tmp_path / "out", f"lacks {shard.name}, which model.safetensors.index")
    shard.write_bytes((tmp_path / "aside").read_bytes()[:500])
    refused(release, tmp_path / "out", f"{shard.name} is no whole safetensors file")
    (tmp_path / "aside").rename(shard)
    refused(release, tmp_path / "out", "no is no folder", FileNotFoundError, clip=tmp_path / "no")


def test_the_command(release, tmp_path, command):
    words = ["--vision-config", release.vision, "--clip-config", release.clip_folder]
    code, out, err = command("convert-vilamp", release.folder, tmp_path / "out", *words)
    assert code == 0, err
    assert "wrote model.safetensors\nwrote frame_encoder/model.safetensors" in out
    assert "reference='released'" in out and "vtc ask VIDEO" in out
    code, out, err = command("convert-vilamp", release.folder, tmp_path / "out", *words)
    assert code == 1 and err.startswith("vtc: error: target") and err.count("\n") == 1
    code, out, _ = command("convert-vilamp", release.folder, tmp_path / "two", *words, "--json")
    assert json.loads(out)["selector"]["fill"] == "gaps"
    video = tmp_path / "scenes.mp4"
    vtc.testing.write_video(video, vtc.testing.moving_squares(seconds=8))
    code, out, err = command(
        "ask", video, QUESTION, "--model", tmp_path / "out", "--max-new-tokens", 4, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["report"]["merger"]["reference"] == "released"
