"""Summarise VideoNIAH records: a table, heat maps as in Figure 2, and plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtc_recipes.evaluation.bootstrap import wilson
from vtc_recipes.evaluation.niah import cell_means
from vtc_recipes.evaluation.resuming import write_json

if TYPE_CHECKING:
    from PIL import Image

    from vtc_recipes.evaluation.videoniah.cases import NiahCase

PAPER = "ViLAMP-7B in the paper (section 5.3): 58.15 % at 10K frames; VideoChat-Flash 47.25 %."
GAP = 24
"""Pixels between two heat maps."""
Records = Sequence[Mapping[str, Any]]


def summarise(records: Records, names: Sequence[str]) -> dict[str, Any]:
    """Return the results for `write_results`, by setting.

    Args:
        records: The records of `vtc_recipes.evaluation.videoniah.running.run`.
        names: Settings, in order; those without records are skipped.
    """
    summary = {}
    for name in names:
        rows = [record for record in records if record["setting"] == name]
        if not rows:
            continue
        summary[name] = {
            **_scores(rows),
            "chance": _mean(rows, "chance"),
            "unclear": sum(record["choice"] is None for record in rows),
            "keyframes": _mean(rows, "keyframes"),
            "in_needle": sum(record["in_needle"] > 0 for record in rows) / len(rows),
            "tokens": _mean(rows, "tokens"),
            "seconds": _mean(rows, "seconds"),
            "lengths": {str(key): _scores(group) for key, group in _groups(rows, "length").items()},
            "kinds": {str(key): _scores(group) for key, group in _groups(rows, "kind").items()},
            "cells": cell_means(rows),
        }
    return summary


def write_results(
    folder: Path,
    cases: Sequence[NiahCase],
    records: Records,
    names: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``results.json``, ``results.md`` and ``heatmap.png``; return the summary.

    Raises:
        ValueError: There are no records.
    """
    if not records:
        raise ValueError(f"{folder} holds no records yet")
    summary = summarise(records, names)
    whole = {"cases": len(cases), "settings": dict(settings), "results": summary}
    write_json(folder / "results.json", whole)
    (folder / "results.md").write_text(_page(cases, summary, settings), encoding="utf-8")
    heat_maps(summary, settings).save(folder / "heatmap.png")
    return summary


def heat_maps(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> Image.Image:
    """Draw a heat map for each setting, side by side."""
    from PIL import Image

    from vtc_recipes.evaluation.heatmap import PAPER as BLANK
    from vtc_recipes.evaluation.heatmap import heat_map

    maps = [
        heat_map(one["cells"], f"{title(name, settings)}: right answers, %")
        for name, one in summary.items()
    ]
    columns = min(2, len(maps))
    wide = max(image.width for image in maps) + GAP
    high = max(image.height for image in maps) + GAP
    rows = -(-len(maps) // columns)
    sheet = Image.new("RGB", (wide * columns, high * rows), BLANK)
    for number, image in enumerate(maps):
        sheet.paste(image, (wide * (number % columns), high * (number // columns)))
    return sheet


def title(name: str, settings: Mapping[str, Any]) -> str:
    """Return the display name of a setting."""
    merger = settings["merger"]["name"]
    return {
        "model": f"{settings['selector']['name']} + {merger}",
        "uniform": f"uniform + {merger}",
        "random": f"random + {merger}",
        "downsampled": "plain downsampling",
        "no_video": "no video",
    }[name]


def lines_of(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table, starting with the column names."""
    lengths = sorted({int(length) for one in summary.values() for length in one["lengths"]})
    names = [f"{length / 1000:g}K" if length >= 1000 else str(length) for length in lengths]
    head = ["setting", "cases", "right", "95 %", *names, "chance", "keyframes in needle"]
    rows = [[*head, "tokens", "seconds"]]
    for name, one in summary.items():
        low, high = one["interval"]
        cells = [one["lengths"].get(str(length)) for length in lengths]
        rows.append(
            [
                title(name, settings),
                str(one["cases"]),
                f"{100 * one['accuracy']:.1f}",
                f"{100 * low:.1f}-{100 * high:.1f}",
                *("" if cell is None else f"{100 * cell['accuracy']:.1f}" for cell in cells),
                f"{100 * one['chance']:.1f}",
                "-" if name == "no_video" else f"{100 * one['in_needle']:.1f}",
                f"{one['tokens']:.0f}",
                f"{one['seconds']:.2f}",
            ]
        )
    return rows


def notes_of(
    cases: Sequence[NiahCase], summary: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """Return notes that readers need to interpret the numbers."""
    notes = []
    most = max(case.repeats for case in cases)
    if most > 1:
        repeating = sum(case.repeats > 1 for case in cases)
        notes.append(
            f"{repeating} of {len(cases)} haystacks repeat videos, up to {most} times, and hold "
            "fewer distinct frames than their length suggests: this is not a VideoNIAH result."
        )
    if settings["model"] == "shipped":
        notes.append(
            "The shipped tiny model was trained on synthetic video and cannot understand others: "
            "this run shows that the command works, not how good a method is."
        )
    questions = len({(case.needle.video, case.needle.first, case.question) for case in cases})
    notes.append(f"Different questions: {questions}, in {len(cases)} cases.")
    unclear = [
        f"{one['unclear']} of {one['cases']} ({title(name, settings)})"
        for name, one in summary.items()
        if one["unclear"]
    ]
    if unclear:
        notes.append(f"Answers that name no option and count as wrong: {', '.join(unclear)}.")
    missing = sum(len(cases) - one["cases"] for one in summary.values())
    if missing:
        notes.append(f"{missing} answers are missing; run the command again.")
    return notes


def _page(
    cases: Sequence[NiahCase], summary: Mapping[str, Any], settings: Mapping[str, Any]
) -> str:
    head, *rows = lines_of(summary, settings)
    table = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    parts = [
        "# VideoNIAH",
        "\n".join(f"- {note}" for note in notes_of(cases, summary, settings)),
        "Right answers in per cent, over all cases and by the frames of the video:",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        PAPER,
        "![right answers by length and depth](heatmap.png)",
        "Settings:",
        "```json\n" + json.dumps(dict(settings), indent=1) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(records: Records) -> dict[str, Any]:
    right = round(sum(record["score"] for record in records))
    low, high = wilson(right, len(records))
    return {"cases": len(records), "accuracy": right / len(records), "interval": [low, high]}


def _mean(records: Records, name: str) -> float:
    return float(sum(record[name] for record in records) / len(records))


def _groups(records: Records, name: str) -> dict[Any, list[Mapping[str, Any]]]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda one: one[name]):
        groups.setdefault(record[name], []).append(record)
    return groups
