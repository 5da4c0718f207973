"""A tiny fake of the released ViLAMP, and a slow float64 transcription of what it computes."""

from __future__ import annotations

import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import vtc
from vtc.testing import redraw
from vtc_adapters.tiny.tokenizer import byte_tokenizer
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
