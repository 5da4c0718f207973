"""Stage 1: the vision tower learns what each of its patches shows.

``python -m vtc_recipes.tiny.pretext --out runs/tiny``
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtc_recipes.synthetic import COLOURS, SHAPES, TEXTURES
from vtc_recipes.tiny.bank import FRAMES, Bank, build_bank, patch_quarters, to_pixels
from vtc_recipes.tiny.models import WIDTH, build_vlm
from vtc_recipes.tiny.running import Run, write_metrics

GATE = 0.9
"""The least accuracy on the shapes of unseen scenes."""


class PatchHead(nn.Module):
    """Reads the shape and the colour in a patch's quarter, and the texture, off a patch."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [1 + len(SHAPES), 1 + len(COLOURS), len(TEXTURES)]
        self.linear = nn.Linear(WIDTH, sum(self.sizes))

    def forward(self, patches: Tensor) -> tuple[Tensor, ...]:
        """``[n, 36, 96]`` to logits ``[n, 36, 9]``, ``[n, 36, 7]`` and ``[n, 36, 6]``."""
        return torch.split(self.linear(patches), self.sizes, dim=-1)


def encode_patches(vlm: Any, pixels: Tensor) -> Tensor:
    """What the projector of the VLM takes: ``[n, 3, 48, 48]`` to ``[n, 36, 96]``."""
    states = vlm.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    patches: Tensor = states[vlm.config.vision_feature_layer]
    return patches


def pretext_loss(vlm: Any, head: PatchHead, bank: Bank, scenes: Tensor, numbers: Tensor) -> Tensor:
    """Mean cross-entropy of shapes, colours and textures over all patches of some frames."""
    logits = head(encode_patches(vlm, to_pixels(bank.frames[scenes, numbers])))
    quarters = patch_quarters()
    textures = bank.textures[scenes, None].expand(-1, len(quarters))
    labels = (bank.shapes[scenes][:, quarters], bank.colours[scenes][:, quarters], textures)
    losses = [
        F.cross_entropy(guess.flatten(0, 1), label.flatten())
        for guess, label in zip(logits, labels, strict=True)
    ]
    return torch.stack(losses).sum()


@torch.no_grad()
def probe(vlm: Any, head: PatchHead, bank: Bank) -> dict[str, float]:
    """Accuracy over the objects of one frame of each scene, by the patches of its quarter."""
    numbers = torch.arange(len(bank)) % FRAMES
    pixels = to_pixels(bank.frames[torch.arange(len(bank)), numbers])
    logits = head(torch.cat([encode_patches(vlm, part) for part in torch.split(pixels, 128)]))
    quarters = F.one_hot(patch_quarters(), 4).float() / (len(patch_quarters()) / 4)
    shapes, colours = (
        torch.einsum("npc,pq->nqc", guess.log_softmax(-1), quarters)[..., 1:].argmax(-1) + 1
        for guess in logits[:2]
    )
    there = bank.shapes > 0
    textures = logits[2].log_softmax(-1).mean(1).argmax(-1)
    return {
        "shape": (shapes == bank.shapes)[there].float().mean().item(),
        "colour": (colours == bank.colours)[there].float().mean().item(),
        "texture": (textures == bank.textures).float().mean().item(),
    }


def train(
    out: Path, *, steps: int, batch: int, scenes: int, rate: float, minutes: float, seed: int
) -> dict[str, Any]:
    """Train the tower of a new VLM, and write ``pretext/`` and ``pretext.json``."""
    torch.manual_seed(seed)
    vlm, processor = build_vlm(seed)
    head = PatchHead()
    bank, unseen = build_bank("train", scenes), build_bank("validation", 512)
    run = Run([*vlm.model.vision_tower.parameters(), *head.parameters()], steps, rate, minutes)
    while run.done < 1:
        chosen = torch.randint(len(bank), (batch,)), torch.randint(FRAMES, (batch,))
        loss = pretext_loss(vlm, head, bank, *chosen)
        run.update(loss)
        if run.step % 200 == 0:
            found = {name: round(value, 3) for name, value in probe(vlm, head, unseen).items()}
            print(run.step, round(loss.item(), 3), found, f"{run.cpu_seconds:.0f} s", flush=True)
    found = probe(vlm, head, unseen)
    metrics = {
        "stage": "pretext",
        "gate": f"shape >= {GATE}",
        "passed": found["shape"] >= GATE,
        **found,
        "steps": run.step,
        "batch": batch,
        "scenes": scenes,
        "seed": seed,
        "cpu_seconds": round(run.cpu_seconds),
    }
    vlm.save_pretrained(out / "pretext")
    processor.save_pretrained(out / "pretext")
    write_metrics(out, "pretext", metrics)
    return metrics


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--scenes", type=int, default=8000, help="of the training split")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--minutes", type=float, default=15.0, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    print(train(**given))


if __name__ == "__main__":
    main()
