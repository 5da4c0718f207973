"""What a trained model is worth: unseen videos, through the toolkit's own path.

``python -m vtc_recipes.tiny.evaluate --model runs/tiny_vlm/long_answers``
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import vtc
from vtc.plugins import registry
from vtc_recipes.synthetic import Example, covers, make_example
from vtc_recipes.synthetic.questions import KINDS
from vtc_recipes.tiny.asking import KINDS as ASKED
from vtc_recipes.tiny.trained import WEIGHTS

Ask = Callable[[Example], tuple[str, Sequence[int]]]
"""Answers an example's question: the text, and the keyframes that were read for it."""


def examples(
    count: int,
    frames: int,
    split: str = "test",
    first: int = 0,
    kinds: Sequence[str] = ASKED,
) -> Iterable[Example]:
    """Examples with questions of every kind in turn, of scenes that no other split holds."""
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield make_example(first + number, frames, kind=kind, split=split)


def asking(model: Any, processor: Any) -> Ask:
    """Ask a wrapped model, as a user would."""

    def ask(example: Example) -> tuple[str, Sequence[int]]:
        answer = vtc.ask(
            model,
            processor,
            example.video,
            example.question.text,
            max_new_tokens=2,
            do_sample=False,
        )
        return answer.text, [frame.index for frame in answer.report.videos[0].keyframes]

    return ask


def evaluate(ask: Ask, given: Iterable[Example]) -> dict[str, dict[str, Any]]:
    """Accuracy and coverage for each kind of question and for all together.

    Returns:
        By kind: ``count``; ``accuracy``, an answer is right if it is the right word and nothing
        else; its 95 % ``interval`` (Wilson); ``coverage``, how often the keyframes hold a frame
        of every range that the answer needs; ``chance``.
    """
    rows: dict[str, list[tuple[bool, bool, float]]] = {}
    for example in given:
        question = example.question
        text, keyframes = ask(example)
        row = (
            text.strip().lower() == question.answer,
            covers(sorted(keyframes), question.evidence),
            question.chance,
        )
        for kind in (question.kind, "all"):
            rows.setdefault(kind, []).append(row)
    return {kind: _summary(found) for kind, found in rows.items()}


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share, by default for 95 %.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return middle - half, middle + half


def _summary(rows: list[tuple[bool, bool, float]]) -> dict[str, Any]:
    count, right = len(rows), sum(row[0] for row in rows)
    return {
        "count": count,
        "accuracy": round(right / count, 4),
        "interval": [round(end, 4) for end in wilson(right, count)],
        "coverage": round(sum(row[1] for row in rows) / count, 4),
        "chance": round(sum(row[2] for row in rows) / count, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate from the command line; prints JSON."""
    from vtc.cli.models import load_model, part_choice

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=str(WEIGHTS / "vlm"), help="folder, stock or saved by vtc"
    )
    parser.add_argument("--encoder", help="by default what the model was saved with")
    parser.add_argument("--selector", default="dks")
    parser.add_argument("--merger", help="by default what the model was saved with")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--keyframes", type=int, default=8)
    parser.add_argument("--kinds", default=",".join(ASKED), help="of questions, in turn")
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, help="write the result to this file too")
    given = parser.parse_args(arguments)
    kinds = given.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"unknown kinds {', '.join(unknown)}; known: {', '.join(KINDS)}")
    selector = part_choice("dks", given.selector, [], given.keyframes)
    merger = part_choice("dfm", given.merger, [])
    try:
        model, processor = load_model(given.model, selector, merger, given.encoder, "cpu", "auto")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    asked = examples(given.examples, given.frames, given.split, kinds=kinds)
    found = evaluate(asking(model, processor), asked)
    settings = {
        "selector": registry.spec_of(model.vtc.selector),
        "merger": registry.spec_of(model.vtc.merger),
        "frames": given.frames,
        "split": given.split,
    }
    text = json.dumps({**settings, "results": found}, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
