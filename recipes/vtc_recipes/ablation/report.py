"""The report of a run: a folder with a Markdown page, a CSV table and plots."""

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
class WrittenReport:
    """A report on disk.

    Attributes:
        file: The Markdown page.
        table: Its table of results, in Markdown.
        results: The results in the report.
    """

    file: Path
    table: str
    results: Results

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {"report": str(self.file), **self.results.to_dict()}


def write_report(runs: Path, folder: Path, against: int = 1) -> WrittenReport:
    """Write ``report.md``, ``results.csv`` and plots of a run's finished cells.

    Args:
        against: See `read_results`.

    Raises:
        FileNotFoundError: The folder was not written by ``vtc ablate``.
        ValueError: No cell is done yet, or there is no such row.
        OSError: The folder cannot be written.
    """
    results = read_results(runs, against)
    folder.mkdir(parents=True, exist_ok=True)
    plots, note = write_plots(results, folder)
    table = markdown_table(results)
    pictures = [f"![{title}]({name})\n" for title, name in plots.items()]
    synthetic = results.setting.get("task") != "videos"
    paper = list(paper_tables(results)) if synthetic else []
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
    return WrittenReport(file, table, results)


def _about(results: Results) -> str:
    if all(row.trained for row in results.rows):
        bootstrap = (
            "each seed is a separate training with its own questions; seeds and questions are "
            "resampled"
        )
    elif results.trained:
        bootstrap = (
            "each seed has its own questions; where it is a separate training, seeds and questions "
            "are resampled, and where all seeds share a model, questions are"
        )
    else:
        bootstrap = (
            "all seeds share the model and have their own questions; questions are resampled"
        )
    waiting = f"\n**Not done yet:** {'; '.join(results.waiting)}.\n" if results.waiting else ""
    note = f"\n{results.note.strip()}\n" if results.note else ""
    chance = 100 * results.rows[0].chance
    return (
        f"Right answers and evidence among the keyframes, with 95 % intervals ({DRAWS} bootstrap "
        f"draws: {bootstrap}); chance is {chance:.1f} %. Differences to row "
        f"{results.against} are paired by question. If all answers are right, or all wrong, the "
        "interval has no width and means nothing. Tokens are per video, for the bare and for the "
        "wrapped model. MACs (first question) and seconds (median) are per question, without the "
        "frame encoder, whose embeddings all cells share; seconds are comparable only if nothing "
        "else ran on the machine.\n\n"
        f"All cells: {_setting(results)}.\n{note}{waiting}"
    )


def _setting(results: Results) -> str:
    seeds = sorted({seed for row in results.rows for seed in row.seeds})
    words = [f"seeds {', '.join(map(str, seeds))}"]
    for name, value in results.setting.items():
        if value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, list) else shown(value)
            words.append(f"{name} {text}")
    return "; ".join(words)
