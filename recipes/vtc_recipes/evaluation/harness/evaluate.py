"""Evaluate a method and its controls on a benchmark; finished runs are not repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtc.plugins.sections import load_json, read_text
from vtc_recipes.evaluation.harness.layout import Benchmark, prepare
from vtc_recipes.evaluation.harness.requests import read_predictions
from vtc_recipes.evaluation.harness.running import (
    Run,
    execute,
    samples_of,
    scores_of,
    tasks_folder,
)
from vtc_recipes.evaluation.harness.scores import METHOD, Record, records_of, summarise
from vtc_recipes.evaluation.harness.tasks import CONTROLS
from vtc_recipes.evaluation.resuming import (
    claim_settings,
    lock_folder,
    model_files,
    read_lines,
    write_json,
    write_lines,
)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a method and its controls.

    Attributes:
        benchmark: The task and its questions.
        out: The folder for the results.
        settings: Arguments of `model.Vtc`, except those that differ between runs.
        controls: The controls to compare with.
        processes: Number of processes on this machine, each with its own model.
        seed: The random seed.
    """

    benchmark: Benchmark
    out: Path
    settings: Mapping[str, Any]
    controls: Sequence[str] = CONTROLS
    processes: int = 1
    seed: int = 0

    def run(self, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
        """Run the method and its controls, and write the results.

        Args:
            progress: Called with the name of a run, its finished questions, and all of them.

        Returns:
            ``settings``, ``parameters``, and by run ``summaries`` and the harness's ``scores``.

        Raises:
            ValueError: The folder holds results of other settings, or another process uses it.
            RuntimeError: The harness has failed, or no question has an answer.
        """
        installed = tasks_folder()
        with lock_folder(self.out):
            settings = {
                "task": self.benchmark.name,
                "data": str(self.benchmark.data),
                "seed": self.seed,
                "model_files": model_files(str(self.settings["pretrained"])),
                **self.settings,
            }
            del settings["batch_size"]  # does not change the answers
            claim_settings(self.out, settings)
            prepared = self.out.resolve() / "prepared"
            names = prepare(self.benchmark, installed, prepared, self.processes)
            records: dict[str, list[Record]] = {}
            scores: dict[str, Any] = {}
            for run in (METHOD, *self.controls):
                folder = self.out.resolve() / run
                if not self._is_done(folder):
                    self._execute(run, folder, prepared, names, progress)
                records[run] = read_lines(folder / "questions.jsonl")
                scores[run] = load_json(folder / "scores.json")
            return self._write(records, scores)

    def _is_done(self, folder: Path) -> bool:
        """Return whether a run has answered all of these questions."""
        file = folder / "questions.jsonl"
        if not file.exists() or not (folder / "scores.json").exists():
            return False
        rows = read_lines(file)
        expected = sorted((q.part, q.number) for q in self.benchmark.questions)
        complete = not any(row["error"] for row in rows)
        return complete and [(row["part"], row["number"]) for row in rows] == expected

    def _execute(
        self,
        name: str,
        folder: Path,
        prepared: Path,
        tasks: list[str],
        progress: Callable[[str, int, int], None],
    ) -> None:
        settings = dict(self.settings)
        if name != METHOD:
            settings |= {"control": name}
            settings |= {} if name == "no_video" else {"method": f"../{METHOD}"}
        run = Run(folder, tuple(tasks), prepared, settings, self.processes, self.seed)
        total = len(self.benchmark.questions)
        output = execute(run, lambda done: progress(name, min(done, total), total))
        records = records_of(
            self.benchmark,
            prepared,
            name,
            read_predictions(folder).values(),
            lambda task: samples_of(output, task),
        )
        errors = [record["error"] for record in records if record["error"] is not None]
        if len(errors) == len(records):
            raise RuntimeError(f"no question of {name} has an answer; the first: {errors[0]}")
        write_json(folder / "scores.json", scores_of(output))
        write_lines(folder / "questions.jsonl", records)

    def _write(
        self, records: Mapping[str, list[Record]], scores: Mapping[str, Any]
    ) -> dict[str, Any]:
        task = self.benchmark.task
        parameters = int(read_text(self.out / METHOD / "parameters.txt"))
        results = {
            "task": self.benchmark.name,
            "settings": load_json(self.out / "settings.json"),
            "parameters": parameters,
            "questions": len(self.benchmark.questions),
            "questions_in_annotations": self.benchmark.total,
            "questions_without_video": self.benchmark.missing,
            "summaries": {run: summarise(rows, task) for run, rows in records.items()},
            "scores": scores,
        }
        write_json(self.out / "results.json", results)
        write_lines(
            self.out / "questions.jsonl", (row for rows in records.values() for row in rows)
        )
        return results
