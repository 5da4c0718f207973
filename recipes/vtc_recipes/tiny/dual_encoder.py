"""Stage 2: the dual encoder learns which frames a text is about, and which are of one scene.

``python -m vtc_recipes.tiny.dual_encoder --out runs/tiny``
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vtc_recipes.synthetic import COLOURS, SHAPES
from vtc_recipes.tiny.bank import FRAMES, Bank, build_bank, to_pixels
from vtc_recipes.tiny.models import CONTEXT, build_dual_encoder, copy_tower
from vtc_recipes.tiny.running import Run, require_gate, write_metrics

GATES = {"precision": 0.9, "same_scene": 0.95, "other_scene": 0.95}
"""The least of each number that `retrieval` gives, on unseen scenes."""
SAME_SCENE = 0.85
"""The threshold of ``dks``: frames of a scene shall be above it, of two scenes below."""
_TEMPERATURE = 0.1
_TEXTS = (
    "What colour is the {shape}?",
    "What colour is the first {shape}?",
    "What colour is the last {shape}?",
    "Which shape is {colour} in the scene after the {shape}?",
    "{shape}",
)


def draw_texts(rng: np.random.Generator, count: int) -> tuple[list[str], Tensor, Tensor]:
    """Random texts, the shape of each ``[count]`` and its colour ``[count]``, 0 for none."""
    kinds = rng.integers(len(_TEXTS), size=count).tolist()
    shapes = rng.integers(len(SHAPES), size=count).tolist()
    colours = rng.integers(len(COLOURS), size=count).tolist()
    texts = [
        _TEXTS[kind].format(shape=SHAPES[shape], colour=tuple(COLOURS)[colour])
        for kind, shape, colour in zip(kinds, shapes, colours, strict=True)
    ]
    numbers = [
        1 + colour if "{colour}" in _TEXTS[kind] else 0
        for kind, colour in zip(kinds, colours, strict=True)
    ]
    return texts, 1 + torch.tensor(shapes), torch.tensor(numbers)


def embed_frames(model: Any, pixels: Tensor) -> Tensor:
    """``[n, 3, 48, 48]`` to ``[n, 64]`` of length one."""
    features = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return F.normalize(features, dim=-1)


def embed_texts(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """``[n, 64]`` of length one."""
    inputs = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt")
    features = model.get_text_features(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], return_dict=True
    ).pooler_output
    return F.normalize(features, dim=-1)


def matching_loss(texts: Tensor, frames: Tensor, matches: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each text with all frames that show what it names, and of each frame so.

    Args:
        texts: ``[t, d]`` of length one.
        frames: ``[n, d]`` of length one.
        matches: ``[t, n]`` bool; a text or a frame without any match does not count.
        scale: By how much the cosines are multiplied.
    """
    logits = scale * texts @ frames.T
    return (_many_positives(logits, matches) + _many_positives(logits.T, matches.T)) / 2


def scene_loss(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of each scene's frame with another frame of it, ``[n, d]`` each."""
    logits = first @ second.T / _TEMPERATURE
    labels = torch.arange(len(first))
    apart = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    # Telling scenes apart is not enough: frames of one scene must pass the selector's threshold.
    return apart + 4 * (1 - (first * second).sum(-1)).mean()


def retrieval(model: Any, tokenizer: Any, bank: Bank) -> dict[str, float]:
    """How well frames are found, on one bank.

    Returns:
        ``precision``: of the shapes' questions, those whose best frames (as many as right ones)
        are right; ``same_scene``: pairs of frames of one scene above the threshold of ``dks``;
        ``other_scene``: pairs of two scenes below it.
    """
    with torch.no_grad():
        frames = torch.cat(
            [embed_frames(model, to_pixels(part)) for part in torch.split(bank.frames[:, 2], 128)]
        )
        later = torch.cat(
            [embed_frames(model, to_pixels(part)) for part in torch.split(bank.frames[:, 5], 128)]
        )
        texts = embed_texts(model, tokenizer, [_TEXTS[0].format(shape=shape) for shape in SHAPES])
    matches = (bank.shapes[None] == 1 + torch.arange(len(SHAPES))[:, None, None]).any(-1)
    cosines = texts @ frames.T
    right = [
        found[row.topk(int(found.sum())).indices].float().mean()
        for row, found in zip(cosines, matches, strict=True)
    ]
    apart = (frames @ frames.T < SAME_SCENE).float().mean() / (1 - 1 / len(frames))
    return {
        "precision": torch.stack(right).mean().item(),
        "same_scene": ((frames * later).sum(-1) > SAME_SCENE).float().mean().item(),
        "other_scene": apart.item(),
    }


def train(
    out: Path, *, steps: int, batch: int, scenes: int, rate: float, minutes: float, seed: int
) -> dict[str, Any]:
    """Train a dual encoder from the tower of stage 1; write ``dual_encoder/`` and its metrics.

    Raises:
        ValueError: Stage 1 was not run or failed its gate.
    """
    from transformers import LlavaOnevisionForConditionalGeneration

    require_gate(out, "pretext")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, image_processor, tokenizer = build_dual_encoder(seed)
    copy_tower(LlavaOnevisionForConditionalGeneration.from_pretrained(out / "pretext"), model)
    bank, unseen = build_bank("train", scenes), build_bank("validation", 512)
    run = Run(model.parameters(), steps, rate, minutes)
    while run.done < 1:
        loss = _batch_loss(model, tokenizer, bank, batch, rng)
        run.update(loss)
        if run.step % 50 == 0:
            found = retrieval(model, tokenizer, unseen)
            found = {name: round(value, 4) for name, value in found.items()}
            print(run.step, round(loss.item(), 3), found, f"{run.cpu_seconds:.0f} s", flush=True)
    found = retrieval(model, tokenizer, unseen)
    metrics = {
        "stage": "dual_encoder",
        "gate": ", ".join(f"{name} >= {least}" for name, least in GATES.items()),
        "passed": all(found[name] >= least for name, least in GATES.items()),
        **found,
        "steps": run.step,
        "batch": batch,
        "scenes": scenes,
        "seed": seed,
        "cpu_seconds": round(run.cpu_seconds),
    }
    for part in (model, image_processor, tokenizer):
        part.save_pretrained(out / "dual_encoder")
    write_metrics(out, "dual_encoder", metrics)
    return metrics


def _batch_loss(
    model: Any, tokenizer: Any, bank: Bank, batch: int, rng: np.random.Generator
) -> Tensor:
    scenes = torch.from_numpy(rng.choice(len(bank), batch, replace=False))
    numbers = torch.from_numpy(rng.integers(FRAMES, size=(2, batch)))
    pixels = to_pixels(bank.frames[scenes, numbers].flatten(0, 1))
    first, second = embed_frames(model, pixels).chunk(2)
    texts, shapes, colours = draw_texts(rng, batch)
    embedded = embed_texts(model, tokenizer, texts)
    matches = (bank.shapes[scenes][None] == shapes[:, None, None]).any(-1)
    coloured = (bank.colours[scenes][None] == colours[:, None, None]) & (colours > 0)[:, None, None]
    matches |= coloured.any(-1)
    scale = model.logit_scale.exp().clamp(max=100)
    return matching_loss(embedded, first, matches, scale) + scene_loss(first, second)


def _many_positives(logits: Tensor, matches: Tensor) -> Tensor:
    """Minus the mean log-probability of the matches, over rows that have any."""
    known = matches.any(-1)
    share = matches[known].float() / matches[known].sum(-1, keepdim=True)
    return -(share * logits[known].log_softmax(-1)).sum(-1).mean()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=8000, help="of the training split")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=10.0, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    print(train(**given))


if __name__ == "__main__":
    main()
