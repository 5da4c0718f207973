"""The report of a run: one folder with a page, a table for programs, and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtc_recipes.ablation.grid import shown
from vtc_recipes.ablation.plots import write_plots
from vtc_recipes.ablation.records import Results, read_results
from vtc_recipes.ablation.tables import csv_table, kinds_table, markdown_table, paper_tables
from vtc_recipes.evaluation.bootstrap import DRAWS


@dataclass(frozen=True)
class Written:
    """A report on disk.

    Attributes:
        file: The page.
        table: Its table of results, in Markdown.
        results: What it shows.
    """

    file: Path
    table: str
    results: Results

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"report": str(self.file), **self.results.to_dict()}


def write_report(runs: Path, folder: Path, against: int = 1) -> Written:
    """Write ``report.md``, ``results.csv`` and plots of what is done in a run.

    Args:
        against: See `read_results`.

    Raises:
        FileNotFoundError: Nothing was started there.
        ValueError: No cell is done yet, or there is no such row.
        OSError: The folder cannot be written.
    """
    results = read_results(runs, against)
    folder.mkdir(parents=True, exist_ok=True)
    drawn, note = write_plots(results, folder)
    table = markdown_table(results)
    pictures = [f"![{title}]({name})\n" for title, name in drawn.items()]
    paper = list(paper_tables(results))
    sections = [
        f"# {results.name}\n",
        _about(results),
        table,
        "## Right answers by kind of question\n",
        kinds_table(results),
        *pictures,
        f"{note}\n" if note else "",
        "## In the paper\n" if paper else "",
        *paper,
    ]
    file = folder / "report.md"
    file.write_text("\n".join(filter(None, sections)), encoding="utf-8")
    (folder / "results.csv").write_text(csv_table(results), encoding="utf-8")
    return Written(file, table, results)


def _about(results: Results) -> str:
    what = (
        "each seed is a training and has questions of its own; seeds and their questions are drawn"
        if results.trained
        else "the model is the same for all seeds, which have other questions; questions are drawn"
    )
    waiting = f"\n**Not done yet:** {'; '.join(results.waiting)}.\n" if results.waiting else ""
    note = f"\n{results.note.strip()}\n" if results.note else ""
    chance = 100 * results.rows[0].chance
    return (
        f"Right answers and evidence among the keyframes, with 95 % intervals ({DRAWS} bootstrap "
        f"draws: {what}); a guess is right in {chance:.1f} %. Differences to row {results.against} "
        "are taken question by question. Where all answers are right, or all wrong, a bootstrap "
        "knows no interval, and none is meant. Tokens are those of a video, for the bare model and "
        "for the wrapped one. MACs (of the first question) and seconds (medians) are of a "
        "question, without the frame encoder, whose embeddings all cells share; seconds are "
        "comparable where nothing else, no other worker either, kept the machine busy.\n\n"
        f"All cells: {_setting(results)}.\n{note}{waiting}"
    )


def _setting(results: Results) -> str:
    seeds = sorted({seed for row in results.rows for seed in row.seeds})
    words = [f"seeds {', '.join(map(str, seeds))}"]
    for name, value in results.setting.items():
        if value is not None:
            said = ", ".join(map(str, value)) if isinstance(value, list) else shown(value)
            words.append(f"{name} {said}")
    return "; ".join(words)
