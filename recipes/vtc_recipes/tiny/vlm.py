"""Stages 3 and 4: the language model learns to tell what it sees, then to answer questions.

``python -m vtc_recipes.tiny.vlm captions --out runs/tiny``
``torchrun --nproc-per-node 2 -m vtc_recipes.tiny.vlm answers --out runs/tiny``
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

import vtc
from vtc import registry
from vtc_recipes.synthetic import SyntheticVideo, make_example
from vtc_recipes.tiny.asking import KINDS, choose_questions, describe
from vtc_recipes.tiny.bank import build_bank
from vtc_recipes.tiny.curriculum import Curriculum, batch_size
from vtc_recipes.tiny.dual_encoder import embed_texts
from vtc_recipes.tiny.features import embeddings_of, kept, patches_of, rows_of
from vtc_recipes.tiny.running import Run, mean_over_ranks, require_gate, write_metrics
from vtc_recipes.tiny.sequences import Dialogue, forward

BEFORE = {"captions": "pretext", "answers": "captions"}
"""The stage whose weights each of these starts from."""
GATES = {"captions": 0.9, "answers": 0.5}
"""The least accuracy: of words of captions at 8 frames, of answers at 64."""
STEPS = {"captions": 400, "answers": 2000}
"""Unless the command line says otherwise."""
UNSEEN = 600
"""Scenes of the validation split that a stage is examined on."""

Select = Callable[[SyntheticVideo, Tensor, str], Tensor]
"""Keyframes ``[K]`` of a video, given its rows in the bank and the query."""


@dataclass(frozen=True)
class World:
    """Where dialogues about videos of one bank of scenes come from.

    Attributes:
        patches: Of the bank, as `patches_of` gives them.
        scenes: How many are in the bank.
        split: Theirs.
        select: Chooses keyframes.
    """

    patches: Tensor
    scenes: int
    split: str
    select: Select

    def dialogue(self, rng: np.random.Generator, frames: int, captions: bool) -> Dialogue:
        """A random video with a caption to write or with questions to answer."""
        kind = KINDS[int(rng.integers(len(KINDS)))]
        example = make_example(
            int(rng.integers(2**31)), frames, kind=kind, split=self.split, scenes=self.scenes
        )
        video, query, rows = example.video, example.question.text, rows_of(example.video)
        if captions:
            turns = [("", describe(video))]
        else:
            asked = choose_questions(rng, example, each=4)
            turns = [(question.text, question.answer) for question in asked]
        return Dialogue(rows, self.select(video, rows, query), query, turns)


def middle_of_scenes(video: SyntheticVideo, rows: Tensor, query: str) -> Tensor:
    """The middle frame of each scene, for stages that need no selector yet."""
    return torch.tensor([(first + end) // 2 for first, end in video.ranges()])


def by_dks(embeddings: Tensor, dual_encoder: Any, tokenizer: Any) -> Select:
    """The toolkit's ``dks`` over a bank's embeddings, with a keyframe for every scene."""

    @cache
    @torch.no_grad()
    def embedded(query: str) -> Tensor:
        return embed_texts(dual_encoder, tokenizer, [query])[0]

    @cache
    def selector(keyframes: int) -> Any:
        return registry.build_part("selector", vtc.selector("dks", keyframes=keyframes))

    def select(video: SyntheticVideo, rows: Tensor, query: str) -> Tensor:
        chosen = selector(len(video.segments)).select(embeddings[rows], embedded(query))
        keyframes: Tensor = chosen.keyframes
        return keyframes

    return select


@torch.no_grad()
def score(
    vlm: Any, tokenizer: Any, world: World, frames: int, captions: bool, videos: int = 128
) -> dict[str, float]:
    """Share of right words (captions) or right answers to the examples' own questions, by kind."""
    rng = np.random.default_rng(0)
    right: dict[str, list[bool]] = {}
    for _ in range(0, videos, 16):
        dialogues = [world.dialogue(rng, frames, captions) for _ in range(16)]
        if not captions:
            dialogues = [
                Dialogue(one.rows, one.keyframes, one.query, one.turns[:1]) for one in dialogues
            ]
        logits, labels, texts = forward(vlm, tokenizer, world.patches, dialogues, merger_options())
        hits = (logits.argmax(-1) == labels).tolist()
        rows = (texts.labels != -100).nonzero()[:, 0].tolist()
        seen: set[int] = set()
        for hit, row in zip(hits, rows, strict=True):
            if captions or row not in seen:  # the end behind an answer is no answer
                kind = "words" if captions else _kind(dialogues[row].query)
                right.setdefault(kind, []).append(hit)
                right.setdefault("all", []).append(hit)
            seen.add(row)
    return {kind: sum(found) / len(found) for kind, found in sorted(right.items())}


def split_weights(vlm: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices of the projector and of the language model's layers, and all other weights."""
    inner = vlm.model
    modules = (inner.multi_modal_projector, inner.language_model.layers)
    inside = [weight for module in modules for weight in module.parameters() if weight.ndim == 2]
    taken = {id(weight) for weight in inside}
    return inside, [weight for weight in vlm.parameters() if id(weight) not in taken]


def merger_options() -> Any:
    """The options of ``dfm``, by default the paper's."""
    return registry.build_part("merger", "dfm").config


def train(
    stage: str,
    out: Path,
    *,
    steps: int,
    scenes: int,
    rate: float,
    minutes: float,
    seed: int,
    weights: Path | None = None,
    level: int = 0,
) -> dict[str, Any]:
    """Train the projector and the language model; write ``<stage>/`` and ``<stage>.json``.

    Raises:
        ValueError: A stage before was not run or failed its gate.
    """
    from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

    captions = stage == "captions"
    require_gate(out, BEFORE[stage])
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, rank))
    vlm = LlavaOnevisionForConditionalGeneration.from_pretrained(weights or out / BEFORE[stage])
    vlm.model.vision_tower.requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(out / BEFORE[stage])
    seen = _world(out, vlm, "train", scenes, captions)
    unseen = _world(out, vlm, "validation", UNSEEN, captions)
    matrices, others = split_weights(vlm)
    run, curriculum = Run(others, steps, rate, minutes, matrices), Curriculum(seed, level)
    end = tokenizer.eos_token_id
    while not run.over():
        frames = 8 if captions else curriculum.frames(run.step)
        count = batch_size(frames)
        dialogues = [seen.dialogue(rng, frames, captions) for _ in range(count)]
        if not captions and frames <= 16:
            dialogues += [seen.dialogue(rng, frames, True) for _ in range(count // 4)]
        logits, labels, _ = forward(vlm, tokenizer, seen.patches, dialogues, merger_options())
        loss = F.cross_entropy(logits, labels)
        run.update(loss)
        hits = (logits.argmax(-1) == labels)[labels != end].float().mean()
        curriculum.note(mean_over_ranks(hits), run.done)
        if run.step % 50 == 0 and rank == 0:
            line: list[Any] = [run.step, frames, round(loss.item(), 3), round(hits.item(), 3)]
            line.append(f"{run.cpu_seconds:.0f} s")
            if run.step % (100 if captions else 400) == 0:
                for length in (8,) if captions else (16, 64):
                    line.append(_rounded(score(vlm, tokenizer, unseen, length, captions)))
            print(*line, flush=True)
            if run.step % 400 == 0:
                vlm.save_pretrained(out / f"{stage}_latest")
    found = score(vlm, tokenizer, unseen, 8 if captions else 64, captions, videos=400)
    metrics = {
        "stage": stage,
        "gate": f"all >= {GATES[stage]} at {8 if captions else 64} frames",
        "passed": found["all"] >= GATES[stage],
        **_rounded(found),
        "steps": run.step,
        "scenes": scenes,
        "seed": seed,
        "ranks": distributed.get_world_size() if distributed.is_initialized() else 1,
        "cpu_seconds_a_rank": round(run.cpu_seconds),
    }
    if rank == 0:
        from transformers import AutoProcessor

        vlm.save_pretrained(out / stage)
        AutoProcessor.from_pretrained(out / BEFORE[stage]).save_pretrained(out / stage)
        write_metrics(out, stage, metrics)
    return metrics


def _world(out: Path, vlm: Any, split: str, scenes: int, captions: bool) -> World:
    """The first scenes of a split with their features, which are computed where they are not kept.

    Raises:
        ValueError: The dual encoder, which captions do without, was not trained or failed its gate.
    """
    from transformers import AutoTokenizer, CLIPModel

    bank = cache(lambda: build_bank(split, scenes))  # not rendered where features are kept
    name = f"{split}_{scenes}.safetensors"
    patches = kept(out / f"patches_{name}", lambda: patches_of(vlm, bank()))
    if captions:
        return World(patches, scenes, split, middle_of_scenes)
    require_gate(out, "dual_encoder")
    clip = CLIPModel.from_pretrained(out / "dual_encoder")
    embeddings = kept(out / f"embeddings_{name}", lambda: embeddings_of(clip, bank()))
    texts = AutoTokenizer.from_pretrained(out / "dual_encoder")
    return World(patches, scenes, split, by_dks(embeddings, clip, texts))


def _kind(query: str) -> str:
    return next((kind for kind in ("first", "last", "after") if kind in query.split()), "colour")


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a stage from the command line, or as one of the ranks that torchrun starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=sorted(BEFORE))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--weights", type=Path, help="weights to go on from, of the same stage")
    parser.add_argument("--level", type=int, default=0, help="of the curriculum, to start at")
    parser.add_argument("--steps", type=int, help=f"by default {STEPS}")
    parser.add_argument("--scenes", type=int, default=6000, help="of the training split")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    given["steps"] = given["steps"] or STEPS[given["stage"]]
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
    print(train(**given))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
