"""Evaluate a trained model on unseen videos with ``vtc.ask``.

``python -m vtc_recipes.tiny.evaluate --model runs/tiny_vlm/long_answers``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import vtc
from vtc.plugins import registry
from vtc_recipes.evaluation.bootstrap import wilson
from vtc_recipes.synthetic import KINDS, STORIES, Example, covers, held_share, make_example
from vtc_recipes.synthetic.stories import MARK, final_answer
from vtc_recipes.tiny.asking import KINDS as ASKED
from vtc_recipes.tiny.trained import WEIGHTS

WORDS = 12
"""Most words of an answer; those about stories name up to six events first."""

Ask = Callable[[Example], tuple[str, Sequence[int]]]
"""Answers an example's question; returns the text and the numbers of the keyframes."""


def examples(
    count: int,
    frames: int,
    split: str = "test",
    first: int = 0,
    kinds: Sequence[str] = ASKED,
) -> Iterable[Example]:
    """Yield examples with questions of every kind in turn, from the scenes of one split."""
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield make_example(first + number, frames, kind=kind, split=split)


def asking(model: Any, processor: Any) -> Ask:
    """Return a function that asks a wrapped model with ``vtc.ask``."""

    def ask(example: Example) -> tuple[str, Sequence[int]]:
        answer = vtc.ask(
            model,
            processor,
            example.video,
            example.question.text,
            max_new_tokens=WORDS,
            do_sample=False,
        )
        return answer.text, [frame.index for frame in answer.report.videos[0].keyframes]

    return ask


def asking_without_video(model: Any, processor: Any) -> Ask:
    """Return a function that asks the question alone, a control for clues in the text.

    It returns the choice with the likeliest first token, because a model without the video seldom
    writes a choice. In answers about stories, choices follow `synthetic.stories.MARK`.
    """
    tokenizer = processor.tokenizer

    @torch.no_grad()
    def ask(example: Example) -> tuple[str, Sequence[int]]:
        question = example.question
        content = [{"type": "text", "text": question.text}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        text = prompt + (MARK if question.kind in STORIES else "")
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
        logits = model(**inputs).logits[0, -1]
        first = [
            tokenizer(choice, add_special_tokens=False)["input_ids"][0]
            for choice in question.choices
        ]
        return question.choices[int(logits[first].argmax())], ()

    return ask


def evaluate(ask: Ask, questions: Iterable[Example]) -> dict[str, dict[str, Any]]:
    """Measure accuracy and coverage for each kind of question and for all together.

    Returns:
        By kind: ``count``; ``accuracy``, the share of answers that are the right word and nothing
        else, after the events in an answer by `synthetic.stories.tell`; its 95 % ``interval``
        (Wilson); ``coverage``, the share of questions whose keyframes include a frame of every
        range of the evidence; ``held``, the mean largest share of these ranges that so many
        keyframes can show; ``chance``.
    """
    rows: dict[str, list[tuple[bool, bool, float, float]]] = {}
    for example in questions:
        question = example.question
        text, keyframes = ask(example)
        row = (
            final_answer(text) == question.answer,
            covers(sorted(keyframes), question.evidence),
            held_share(question, len(keyframes)),
            question.chance,
        )
        for kind in (question.kind, "all"):
            rows.setdefault(kind, []).append(row)
    return {kind: _summary(scores) for kind, scores in rows.items()}


def _summary(rows: list[tuple[bool, bool, float, float]]) -> dict[str, Any]:
    count, right = len(rows), sum(row[0] for row in rows)
    return {
        "count": count,
        "accuracy": round(right / count, 4),
        "interval": [round(end, 4) for end in wilson(right, count)],
        "coverage": round(sum(row[1] for row in rows) / count, 4),
        "held": round(sum(row[2] for row in rows) / count, 4),
        "chance": round(sum(row[3] for row in rows) / count, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate from the command line; print JSON."""
    from vtc.cli.models import ModelOptions

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=str(WEIGHTS / "vlm"), help="folder, stock or saved by vtc"
    )
    parser.add_argument("--encoder", help="by default the one saved with the model")
    parser.add_argument("--selector", default="dks")
    parser.add_argument("--merger", help="by default the one saved with the model")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--keyframes", type=int, default=8)
    parser.add_argument("--kinds", default=",".join(ASKED), help="kinds of questions, in turn")
    parser.add_argument("--no-video", action="store_true", help="ask the questions alone")
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, help="write the result to this file too")
    args = parser.parse_args(arguments)
    kinds = args.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in {**KINDS, **STORIES}]:
        parser.error(f"unknown kinds {', '.join(unknown)}; known: {', '.join([*KINDS, *STORIES])}")
    names = ("model", "selector", "merger", "keyframes", "encoder")
    wrapped = ModelOptions(device="cpu", **{name: getattr(args, name) for name in names})
    try:
        model, processor = wrapped.open(quiet=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    questions = examples(args.examples, args.frames, args.split, kinds=kinds)
    ask = asking_without_video if args.no_video else asking
    results = evaluate(ask(model, processor), questions)
    settings = {
        "selector": registry.spec_of(model.vtc.selector),
        "merger": registry.spec_of(model.vtc.merger),
        "frames": 0 if args.no_video else args.frames,
        "split": args.split,
    }
    text = json.dumps({**settings, "results": results}, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
