"""Evaluate trained models of several seeds on needles in haystacks: tables and a heat map.

``python -m vtc_recipes.tiny.results runs/tiny_vlm_0 runs/tiny_vlm_1 --out docs/results/tiny``

Needles differ between seeds and depths, so all answers about one length are independent; all
lengths share their needles. Records are kept in ``RUN/needles``: each run may be evaluated by its
own process, and an interrupted one resumes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import vtc
from vtc.plugins import registry
from vtc.plugins.sections import load_json
from vtc_recipes.evaluation.bootstrap import wilson
from vtc_recipes.evaluation.heatmap import heat_map
from vtc_recipes.evaluation.niah import accuracy, cell_means, run
from vtc_recipes.synthetic.cases import make_cases
from vtc_recipes.tiny.asking import KINDS
from vtc_recipes.tiny.evidence import Review
from vtc_recipes.tiny.vlm import HourAnswers, LongAnswers

STAGES = (Review.name, HourAnswers.name, LongAnswers.name)
"""The model of the first of these stages that a run has is evaluated."""
KEYFRAMES = {64: 8}
"""Number of keyframes by haystack length; 32 for all others."""
_SEEDS_APART, _DEPTHS_APART = 10_000, 100


def examine(folder: Path, lengths: Sequence[int], depths: int, cases: int) -> list[dict[str, Any]]:
    """Evaluate the model of a run on needles, and write the records to ``folder/needles``.

    Returns:
        The records of `vtc_recipes.evaluation.niah.run`, with the ``kind`` of question and the
        ``seed`` of the training.
    """
    stage = _last_stage(folder) or STAGES[-1]
    seed = load_json(folder / f"{stage}.json")["seed"]
    model = vtc.from_pretrained(folder / stage).eval()
    all_records = []
    for length in lengths:
        keyframes = KEYFRAMES.get(length, 32)
        model.vtc.selector = registry.build_part(
            "selector", vtc.selector("dks", keyframes=keyframes)
        )
        cases_of_length = [
            case
            for number in range(depths)
            for case in make_cases(
                [length],
                [number / max(1, depths - 1)],
                cases,
                kinds=KINDS,
                seed=seed * _SEEDS_APART + number * _DEPTHS_APART,
            )
        ]
        score = accuracy(model, model.vtc.processor, max_new_tokens=2, do_sample=False)
        settings = {
            "selector": registry.spec_of(model.vtc.selector),
            "merger": registry.spec_of(model.vtc.merger),
        }
        records = run(cases_of_length, score, folder / "needles" / str(length), settings)
        all_records += [
            {**record, "kind": case.kind, "seed": seed}
            for record, case in zip(records, cases_of_length, strict=True)
        ]
        print(f"seed {seed}, {length} frames: {_share(records)}", flush=True)
    return all_records


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Format accuracy by length and kind in %, with 95 % intervals (Wilson), as Markdown."""
    seeds = sorted({record["seed"] for record in records})
    lines = [
        "| frames | keyframes | n | all (95 %) | by seed | " + " | ".join(KINDS) + " | coverage |",
        "|---" * (6 + len(KINDS)) + "|",
    ]
    for length, rows in _by(records, "length").items():
        by_seed = ", ".join(_share(_by(rows, "seed")[seed]) for seed in seeds)
        kinds = " | ".join(_share(_by(rows, "kind")[kind]) for kind in KINDS)
        covered = 100 * sum(row["covered"] for row in rows) / len(rows)
        low, high = wilson(sum(row["score"] == 1 for row in rows), len(rows))
        lines.append(
            f"| {length:,} | {KEYFRAMES.get(length, 32)} | {len(rows)} | **{_share(rows)}** "
            f"({100 * low:.1f}-{100 * high:.1f}) | {by_seed} | {kinds} | {covered:.0f} |"
        )
    return "\n".join(lines)


def _last_stage(folder: Path) -> str | None:
    return next((stage for stage in STAGES if (folder / f"{stage}.json").is_file()), None)


def _by(records: Iterable[Mapping[str, Any]], name: str) -> dict[Any, list[Mapping[str, Any]]]:
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record[name]].append(record)
    return dict(sorted(groups.items()))


def _share(records: Sequence[Mapping[str, Any]]) -> str:
    return f"{100 * sum(record['score'] for record in records) / len(records):.1f}"


def main() -> None:
    """Evaluate from the command line; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of vtc train tiny_vlm")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--lengths", default="64,1024,10000", help="frames of the videos")
    parser.add_argument("--depths", type=int, default=5, help="number of evenly spaced depths")
    parser.add_argument("--cases", type=int, default=8, help="cases per seed, length and depth")
    args = parser.parse_args()
    if missing := [str(run) for run in args.runs if _last_stage(run) is None]:
        parser.error(f"no {STAGES[-1]}.json in {', '.join(missing)}; train tiny_vlm there first")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    lengths = [int(length) for length in args.lengths.split(",")]
    records = [r for f in args.runs for r in examine(f, lengths, args.depths, args.cases)]
    args.out.mkdir(parents=True, exist_ok=True)
    cells = cell_means(records)
    heat_map(cells, "right answers, %").save(args.out / "heatmap.png")
    text = json.dumps({"cells": cells, "records": records})
    (args.out / "needles.json").write_text(text + "\n", encoding="utf-8")
    print(table(records))


if __name__ == "__main__":
    main()
