"""Tables of a grid's results in Markdown and CSV, and the paper's numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from vtc_recipes.ablation.grid import shown
from vtc_recipes.ablation.records import Estimate, Results, RowResult

PAPER = Path(__file__).with_name("paper.yaml")
ELSEWHERE = "another model, other data"


def markdown_table(results: Results) -> str:
    """Return a Markdown table: one line per configuration, in per cent, with 95 % intervals."""
    titles = [
        *results.axes,
        "right answers, %",
        f"difference to row {results.against}",
        "evidence seen, %",
        "tokens",
        "GMACs",
        "seconds",
        "questions",
    ]
    return _markdown(titles, (_cells(results, row) for row in results.rows))


def kinds_table(results: Results) -> str:
    """Return a Markdown table of right answers by kind of question, in per cent."""
    kinds = list(dict.fromkeys(kind for row in results.rows for kind in row.kinds))
    rows = (
        [
            *(shown(row.values.get(axis, "")) for axis in results.axes),
            *(per_cent(row.kinds[kind]) if kind in row.kinds else "" for kind in kinds),
        ]
        for row in results.rows
    )
    return _markdown([*results.axes, *kinds], rows)


def csv_table(results: Results) -> str:
    """Return a CSV table: one line per configuration, with unrounded numbers."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    estimates = ("accuracy", "difference", "coverage")
    plain = ("chance", "tokens_before", "tokens_after", "macs", "seconds", "questions")
    ends = [f"{name}{end}" for name in estimates for end in ("", "_low", "_high")]
    lines.writerow([*results.axes, *ends, *plain, "seeds", "missing_seeds"])
    for row in results.rows:
        cells: list[Any] = [shown(row.values.get(axis, "")) for axis in results.axes]
        for name in estimates:
            estimate = getattr(row, name)
            cells += (
                ["", "", ""] if estimate is None else [estimate.mean, estimate.low, estimate.high]
            )
        cells += [getattr(row, name) for name in plain]
        lines.writerow([*cells, " ".join(map(str, row.seeds)), " ".join(map(str, row.missing))])
    return text.getvalue()


def paper_tables(results: Results) -> Iterator[str]:
    """Yield the paper's tables on the same axes, each with a note on how it differs."""
    axes = {axis.rpartition(".")[2] for axis in results.axes}
    for table in yaml.safe_load(PAPER.read_text(encoding="utf-8")):
        if axes & set(table["axes"]):
            note = f" {table['note']}" if "note" in table else ""
            yield (
                f"### {table['title']} of ViLAMP: {ELSEWHERE}\n\n"
                f"Copied from the paper, not measured here.{note}\n\n"
                + _markdown(table["columns"], table["rows"])
            )


def per_cent(estimate: Estimate, signed: bool = False) -> str:
    """Return text such as ``85.8 (82.0 to 88.8)``."""
    sign = "+" if signed else ""
    mean, low, high = (100 * value for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _cells(results: Results, row: RowResult) -> list[str]:
    missing = f" (seeds missing: {', '.join(map(str, row.missing))})" if row.missing else ""
    return [
        *(shown(row.values.get(axis, "")) for axis in results.axes),
        per_cent(row.accuracy),
        "" if row.difference is None else per_cent(row.difference, signed=True),
        "" if row.coverage is None else per_cent(row.coverage),
        f"{row.tokens_before:.0f} -> {row.tokens_after:.0f}",
        f"{row.macs / 1e9:.3g}",
        f"{row.seconds:.3g}",
        f"{row.questions}{missing}",
    ]


def _markdown(titles: Sequence[object], rows: Any) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)
