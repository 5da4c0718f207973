"""Scores of a benchmark counted by hand, the table, and the check of what the harness leaves."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vtc_recipes.evaluation.bootstrap import wilson
from vtc_recipes.evaluation.harness import running
from vtc_recipes.evaluation.harness.evaluate import Evaluation
from vtc_recipes.evaluation.harness.layout import Benchmark, Question
from vtc_recipes.evaluation.harness.requests import Prediction
from vtc_recipes.evaluation.harness.running import Run, environment, execute
from vtc_recipes.evaluation.harness.scores import group_table, records_of, summarise, table
from vtc_recipes.evaluation.harness.tasks import TASKS


def question(number: int, duration: str, task_type: str = "OCR Problems") -> Question:
    row = {"duration": duration, "task_type": task_type, "domain": "Law", "options": list("abcd")}
    return Question("", number, Path("v.mp4"), row)


DURATIONS = ("short", "short", "short", "medium", "long", "long")
QUESTIONS = [question(number, duration) for number, duration in enumerate(DURATIONS)]
RIGHT = (1, 1, 0, 0, 1, 1)


def benchmark(name: str = "videomme", questions=QUESTIONS) -> Benchmark:
    return Benchmark(name, TASKS[name], Path("data"), list(questions), len(questions), 0)


def prepared(folder: Path, order) -> Path:
    rows = folder / "annotations/vtc_videomme"
    rows.mkdir(parents=True)
    lines = (json.dumps({"vtc_row": number}) + "\n" for number in order)
    (rows / "test.jsonl").write_text("".join(lines))
    return folder


def prediction(number: int, **values) -> Prediction:
    values = {"text": "B", "tokens_after": 10 + number, "keyframes": (0.0, 1.0), **values}
    return Prediction(str(number), "vtc_videomme", number, **values)


def sample(number: int, right: bool) -> dict:
    return {"target": "A", "videomme_perception_score": {"score": float(right)}}


@pytest.fixture
def records(tmp_path):
    order = (3, 1, 2, 0, 4, 5)  # as several processes share them
    predictions = [prediction(number) for number in range(6)]
    predictions[5] = prediction(5, text="", error="broken")
    predictions[2] = prediction(2, text="no idea")
    return records_of(
        benchmark(),
        prepared(tmp_path, order),
        "method",
        predictions,
        lambda task: [sample(number, bool(RIGHT[number])) for number in order],
    )


def test_scores_are_those_counted_by_hand(records):
    assert [record["number"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert [record["right"] for record in records] == [True, True, False, False, True, False]
    summary = summarise(records, TASKS["videomme"])
    assert summary["all"]["n"] == 6 and summary["all"]["right"] == 3
    assert summary["all"]["share"] == summary["score"] == 0.5
    assert summary["all"]["interval"] == wilson(3, 6) and summary["all"]["chance"] == 0.25
    durations = summary["groups"]["duration"].items()
    counts = {name: (each["right"], each["n"]) for name, each in durations}
    assert counts == {"short": (2, 3), "medium": (0, 1), "long": (1, 2)}
    assert summary["tokens"] == (10 + 11 + 12 + 13 + 14) / 5 and summary["keyframes"] == 2
    assert summary["errors"] == 1 and summary["no_letter"] == 1


def test_the_table_has_the_controls_and_the_papers_row(records):
    summaries = {"method": summarise(records, TASKS["videomme"])}
    summaries["no_video"] = summaries["method"]
    lines = table("videomme", TASKS["videomme"], "m + dks", 8_030_000_000, 1.0, summaries)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines()[:6]]
    assert rows[0][-4:] == ["95 %", "short", "medium", "long"]
    assert rows[2][:2] == ["m + dks", "8.0B"] and rows[2][6:] == [
        "50.0", "18.8-81.2", "66.7", "0.0", "50.0",
    ]  # fmt: skip
    assert rows[3][0] == "no video"
    assert rows[4][0] == "ViLAMP-7B (paper)" and rows[4][6:] == ["67.7", "-", "-", "-", "58.4"]
    assert "1 questions have no answer and count as wrong" in lines
    assert "1 answers name no option" in lines and "Chance: 25.0 %" in lines
    assert "| duration: short | 3 | 66.7 | 20.8-93.9 | 25.0 |" in group_table(summaries["method"])


def test_mlvu_is_the_mean_of_its_task_types(tmp_path):
    types = ("count", "count", "count", "needle")
    questions = [
        Question("", number, Path("v.mp4"), {"task_type": kind, "question": "?\n(A) a\n(B) b"})
        for number, kind in enumerate(types)
    ]
    order = range(4)
    rows = tmp_path / "annotations/vtc_mlvu_dev"
    rows.mkdir(parents=True)
    (rows / "test.jsonl").write_text("".join(f'{{"vtc_row": {n}}}\n' for n in order))
    answers = [{"pred_answer": "A", "answer": answer} for answer in "ABBa"]
    records = records_of(
        benchmark("mlvu_dev", questions),
        tmp_path,
        "method",
        [replace(prediction(number), task="vtc_mlvu_dev") for number in order],
        lambda task: [{"mlvu_percetion_score": answer} for answer in answers],
    )
    summary = summarise(records, TASKS["mlvu_dev"])
    assert summary["all"]["share"] == 0.5 and summary["score"] == (1 / 3 + 1) / 2
    assert summary["all"]["chance"] == 0.5


def test_a_question_of_two_groups_counts_in_both():
    record = {"right": True, "options": 4, "error": None, "text": "A", "frames": 1, "keyframes": []}
    record |= {"tokens_before": 1, "tokens_after": 1, "seconds": 0.1}
    record["groups"] = {"question_type": ["reasoning", "recognition"]}
    groups = summarise([record], TASKS["lvbench"])["groups"]["question_type"]
    assert {*groups} == {"reasoning", "recognition"}


def test_questions_that_the_harness_loses_are_an_error(tmp_path):
    arguments = (benchmark(), prepared(tmp_path, range(6)), "method")
    with pytest.raises(RuntimeError, match="lmms-eval scored 1 of 6 questions of vtc_videomme"):
        records_of(*arguments, [prediction(n) for n in range(6)], lambda task: [sample(0, True)])
    samples = [sample(number, True) for number in range(6)]
    with pytest.raises(RuntimeError, match="no prediction for row 5 of vtc_videomme"):
        records_of(*arguments, [prediction(n) for n in range(5)], lambda task: samples)


def harness(monkeypatch, program: str) -> None:
    monkeypatch.setattr(running, "command", lambda run: [sys.executable, "-c", program])
    monkeypatch.setattr(running, "_POLL_SECONDS", 0.02)


def run_in(folder: Path) -> Run:
    return Run(folder, ("vtc_videomme",), folder / "prepared", {"batch_size": 4})


FAILURE = """
print("ERROR - \\x1b[31mError during evaluation: no space\\nleft. Please set `--verbosity=DEBUG`")
"""
RESULTS = """
import json, os
os.makedirs("harness/model")
open("harness/model/1_results.json", "w").write(json.dumps({"results": {TASK: {"score": 5}}}))
"""


def test_a_harness_without_results_is_an_error_although_it_exits_with_0(monkeypatch, tmp_path):
    harness(monkeypatch, FAILURE)
    message = r"wrote no results of vtc_videomme \(exit code 0\); .*log.txt: no space left$"
    with pytest.raises(RuntimeError, match=message):
        execute(run_in(tmp_path), lambda done: None)
    other = FAILURE.replace("no space\\nleft", "another cause")
    harness(monkeypatch, other + FAILURE)  # of several processes, the first error is the cause
    with pytest.raises(RuntimeError, match="log.txt: another cause$"):
        execute(run_in(tmp_path), lambda done: None)
    harness(monkeypatch, RESULTS.replace("TASK", "'another'"))
    with pytest.raises(RuntimeError, match="wrote no results of vtc_videomme"):
        execute(run_in(tmp_path), lambda done: None)


def test_results_of_an_earlier_run_are_not_taken_for_new_ones(monkeypatch, tmp_path):
    harness(monkeypatch, RESULTS.replace("TASK", "'vtc_videomme'"))
    output = execute(run_in(tmp_path), lambda done: None)
    assert running.scores_of(output) == {"vtc_videomme": {"score": 5}}
    with pytest.raises(RuntimeError, match="no samples of vtc_videomme"):
        running.samples_of(output, "vtc_videomme")
    harness(monkeypatch, FAILURE)
    with pytest.raises(RuntimeError, match="wrote no results"):
        execute(run_in(tmp_path), lambda done: None)


def test_the_harness_ends_with_the_command(monkeypatch, tmp_path):
    program = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(120)"
    harness(monkeypatch, program)

    def interrupt(done: int) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        execute(run_in(tmp_path), interrupt)
    assert time.monotonic() - began < 60  # it was ended, not waited for
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_models_stay_where_they_are_although_the_data_have_a_home_of_their_own(tmp_path):
    from huggingface_hub import constants

    values = environment(run_in(tmp_path))
    assert values["HF_HOME"] == str(tmp_path / "prepared/hf_home")
    assert values["HF_HUB_CACHE"] == str(constants.HF_HUB_CACHE)


def test_processes_are_started_by_torchrun(tmp_path):
    words = running.command(replace(run_in(tmp_path), processes=8))
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "8"]
    assert "torch.distributed.run" not in running.command(run_in(tmp_path))
    on_cpu = replace(run_in(tmp_path), settings={"device": "cpu"})
    assert environment(on_cpu)["ACCELERATE_USE_CPU"] == "true"


class FakeRuns:
    """Stands in for the harness: each run answers B, which is right for even rows."""

    def __init__(self, monkeypatch, tmp_path: Path) -> None:
        from vtc_recipes.evaluation.harness import evaluate

        self.runs: list[str] = []
        self.errors: set[int] = set()
        installed = tmp_path / "installed/videomme"
        installed.mkdir(parents=True)
        (installed / "videomme.yaml").touch()
        monkeypatch.setattr(evaluate, "tasks_folder", lambda: tmp_path / "installed")
        monkeypatch.setattr(evaluate, "execute", self.execute)
        monkeypatch.setattr(evaluate, "scores_of", lambda output: {})
        monkeypatch.setattr(evaluate, "samples_of", lambda output, task: self.samples)

    def execute(self, run: Run, progress) -> Path:
        self.runs.append(run.folder.name)
        self.settings = run.settings
        numbers = range(len(QUESTIONS))
        file = run.folder / "predictions-0.jsonl"
        run.folder.mkdir(exist_ok=True)
        found = [prediction(n, error="broken" if n in self.errors else None) for n in numbers]
        file.write_text("".join(json.dumps(asdict(each)) + "\n" for each in found))
        (run.folder / "parameters.txt").write_text("1000000\n")
        self.samples = [sample(number, number % 2 == 0) for number in numbers]
        return run.folder


@pytest.fixture
def runs(monkeypatch, tmp_path):
    return FakeRuns(monkeypatch, tmp_path)


def evaluation(out: Path, **changes) -> Evaluation:
    settings = {"pretrained": "m", "batch_size": 4, "keyframes": 3}
    return replace(Evaluation(benchmark(), out, settings), **changes)


def test_a_run_that_is_done_is_not_done_again(runs, tmp_path):
    results = evaluation(tmp_path / "out").run(lambda *_: None)
    assert runs.runs == ["method", "uniform", "downsample", "random", "no_video"]
    assert runs.settings["control"] == "no_video" and "method" not in runs.settings
    assert results["summaries"]["method"]["score"] == 0.5
    assert len((tmp_path / "out/questions.jsonl").read_text().splitlines()) == 30
    again = evaluation(tmp_path / "out").run(lambda *_: None)
    assert len(runs.runs) == 5 and again == results
    evaluation(tmp_path / "out", controls=["random"]).run(lambda *_: None)
    assert len(runs.runs) == 5


def test_a_run_with_errors_is_done_again(runs, tmp_path):
    runs.errors = {4}
    first = evaluation(tmp_path / "out", controls=[]).run(lambda *_: None)
    assert first["summaries"]["method"]["errors"] == 1
    assert first["summaries"]["method"]["score"] == 2 / 6
    runs.errors = set()
    second = evaluation(tmp_path / "out", controls=[]).run(lambda *_: None)
    assert runs.runs == ["method", "method"] and second["summaries"]["method"]["score"] == 0.5


def test_a_run_without_any_answer_is_an_error(runs, tmp_path):
    runs.errors = {*range(6)}
    with pytest.raises(RuntimeError, match="no question of method has an answer; the first: brok"):
        evaluation(tmp_path / "out").run(lambda *_: None)


def test_results_of_other_settings_are_refused(runs, tmp_path):
    evaluation(tmp_path / "out", controls=[]).run(lambda *_: None)
    other = {"pretrained": "m", "batch_size": 8, "keyframes": 4}
    with pytest.raises(ValueError, match="holds results with another keyframes; choose another"):
        evaluation(tmp_path / "out", settings=other).run(lambda *_: None)
    evaluation(tmp_path / "out", settings={**other, "keyframes": 3}, controls=[]).run(
        lambda *_: None
    )
    with pytest.raises(ValueError, match="another seed"):
        evaluation(tmp_path / "out", seed=1).run(lambda *_: None)


def test_other_weights_in_the_same_folder_are_other_settings(runs, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"1")
    settings = {"pretrained": str(model), "batch_size": 4}
    evaluation(tmp_path / "out", settings=settings, controls=[]).run(lambda *_: None)
    (model / "model.safetensors").write_bytes(b"22")
    with pytest.raises(ValueError, match="another model_files"):
        evaluation(tmp_path / "out", settings=settings, controls=[]).run(lambda *_: None)
