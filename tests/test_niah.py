"""Needles in haystacks: scores, runs that resume, heat maps, the command."""

from __future__ import annotations

import json
import os
import re
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import vtc
from vtc.video import VideoSource
from vtc_recipes.demo import demo
from vtc_recipes.evaluation.heatmap import heat_map
from vtc_recipes.evaluation.niah import accuracy, cell_means, coverage, run
from vtc_recipes.evaluation.niah_cli import niah as command
from vtc_recipes.synthetic.cases import ASKED, Case, make_cases, write_cases


def test_the_coverage_of_uniform_is_a_count_by_hand():
    score = coverage({"name": "uniform", "keyframes": 8}, EyeEncoder())
    cases = make_cases([64, 100], [0.0, 0.4, 1.0], 15)
    found = [score(case) for case in cases]
    for case, record in zip(cases, found, strict=True):
        by_hand = [(2 * k + 1) * case.length // 16 for k in range(8)]
        assert record["keyframes"] == by_hand
        hit = all(any(k in range(*pair) for k in by_hand) for pair in case.evidence)
        assert record["score"] == float(hit)
    assert 0 < sum(record["score"] for record in found) < len(cases)


CASE = make_cases([40], [0.5], 1)[0]


class EyeEncoder:
    """Sees how yellow a frame is; any text asks for yellow."""

    name, dim, notes = "eye", 2, ()

    def encode_frames(self, frames):
        red, green, blue = torch.as_tensor(frames).float().unbind(-1)
        yellow = ((red > 180) & (green > 160) & (blue < 110)).float().mean((1, 2))
        angle = (20 * yellow).clamp(0, 1.5)
        return torch.stack([angle.sin(), angle.cos()], dim=-1)

    def encode_text(self, text):
        return torch.tensor([1.0, 0.0])


def test_coverage_looks_through_the_encoder():
    cases = make_cases([80], [0.5], 60, kinds=["colour"])
    score = coverage({"name": "query_guided", "keyframes": 24}, EyeEncoder())
    yellow = [score(case)["score"] for case in cases if case.answer == "yellow"]
    blue = [score(case)["score"] for case in cases if case.answer == "blue"]
    assert len(yellow) > 4 and len(blue) > 4
    assert np.mean(yellow) > np.mean(blue) + 0.3


@pytest.mark.parametrize(
    ("text", "right"),
    [("{}", 1.0), (" {}.\n", 1.0), ("'{}'", 1.0), ("The star is {}.", 0.0), ("", 0.0)],
)
def test_an_answer_is_right_word_for_word(monkeypatch, text, right):
    asked = {}

    def ask(model, processor, video, question, **options):
        asked.update(question=question, frames=len(video), options=options)
        keyframes = [SimpleNamespace(index=first) for first, _ in CASE.evidence]
        report = SimpleNamespace(keyframes=keyframes, warnings=["lost"])
        return SimpleNamespace(text=text.format(CASE.answer.title()), report=report)

    monkeypatch.setattr(vtc, "ask", ask)
    prompt = "{question} One of {choices}."
    record = accuracy(None, None, prompt, max_new_tokens=3)(CASE)
    assert (
        record["covered"]
        and record["score"] == right
        and record["text"] == text.format(CASE.answer.title())
    )
    assert asked["question"] == (f"{CASE.question} One of red, green, blue, yellow, purple, cyan.")
    assert asked["frames"] == CASE.length and asked["options"] == {"max_new_tokens": 3}


def test_the_answer_to_a_story_is_its_last_words(monkeypatch):
    report = SimpleNamespace(keyframes=[], warnings=["lost"])
    story = make_cases([64], [0.5], 1, needle_frames=32, kinds=["order"])[0]
    for case, right in ((story, 1), (CASE, 0)):
        told = SimpleNamespace(text=f"circle ring . {case.answer}", report=report)
        monkeypatch.setattr(vtc, "ask", lambda *_, told=told, **__: told)
        record = accuracy(None, None)(case)
        assert record["score"] == right and record["warnings"] == ["lost"]


def test_a_real_model_is_asked(model, processor, encoder):
    vtc.wrap(model, {"name": "uniform", "keyframes": 4}, "mean_pool", encoder=encoder)
    record = accuracy(model, processor, max_new_tokens=2)(CASE)
    assert record["score"] in (0.0, 1.0) and isinstance(record["text"], str)
    report = vtc.last_report(model)
    found = [frame.index for frame in report.keyframes]
    assert record["covered"] == all(any(a <= k < b for k in found) for a, b in CASE.evidence)
    assert report.frames == CASE.length and report.videos[0].query == CASE.question


CASES = make_cases([40, 60], [0.0, 1.0], 3)


class Scorer:
    """Gives numbers; stops at some call as a machine may."""

    def __init__(self, stop_at: int | None = None):
        self.asked: list[Case] = []
        self.stop_at = stop_at

    def __call__(self, case: Case) -> dict:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(case)
        return {"score": (case.seed + case.length) % 3 / 2}


def test_a_run_that_stopped_goes_on(tmp_path):
    first = Scorer(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        run(CASES, first, tmp_path, {"selector": "x"})
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"case": 5, "len')  # cut off in the middle
    second, shown = Scorer(), []
    records = run(CASES, second, tmp_path, {"selector": "x"}, lambda *done: shown.append(done))
    assert first.asked + second.asked == CASES
    assert shown == [(k, 12) for k in range(5, 13)]
    whole = run(CASES, Scorer(), tmp_path / "whole", {"selector": "x"})
    places = [(record["case"], record["length"], record["score"]) for record in records]
    assert places == [(record["case"], record["length"], record["score"]) for record in whole]
    kept = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert kept == records and all(record["seconds"] >= 0 for record in records)
    third = Scorer()
    assert run(CASES, third, tmp_path, {"selector": "x"}) == records and not third.asked


def test_results_of_something_else_are_not_continued(tmp_path):
    run(CASES, Scorer(), tmp_path, {"selector": "x"})
    with pytest.raises(ValueError, match="holds results with another selector; choose another"):
        run(CASES, Scorer(), tmp_path, {"selector": "y"})
    with pytest.raises(ValueError, match="holds results of other cases; choose another folder"):
        run(CASES[1:], Scorer(), tmp_path, {"selector": "x"})


def test_a_record_that_is_missing_is_made_and_one_too_many_is_named(tmp_path):
    whole = run(CASES, Scorer(), tmp_path, {})
    file = tmp_path / "records.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2] + lines[3:]))
    scorer = Scorer()
    again = run(CASES, scorer, tmp_path, {})
    assert scorer.asked == [CASES[2]]
    assert [record["score"] for record in again] == [record["score"] for record in whole]
    for line, problem in (
        (lines[2], "line 13: expected the record of another of 12 cases, got case 2; remove"),
        (lines[2].replace('"case": 2', '"case": 12'), "another of 12 cases, got case 12"),
        ('{"case": 2}\n', "line 13 has 3 errors:\n  - length is missing"),
        ("[]\n", "line 13 has 1 error:\n  - expected a mapping"),
        (lines[2].replace('"score": ', '"score": 9'), "score: expected a value <= 1, got 9"),
    ):
        file.write_text("".join(lines) + line)
        with pytest.raises(ValueError, match=problem):
            run(CASES, Scorer(), tmp_path, {})
    file.write_bytes("".join(lines).encode() + b"\xff\n")
    with pytest.raises(ValueError, match="records.jsonl cannot be read: 'utf-8' codec"):
        run(CASES, Scorer(), tmp_path, {})


@pytest.mark.parametrize("name", ["settings.json", "cases.jsonl"])
def test_records_without_their_settings_or_cases_are_not_continued(tmp_path, name):
    run(CASES, Scorer(), tmp_path, {"selector": "x"})
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"holds results but no {name}; choose another folder"):
        run(CASES, Scorer(), tmp_path, {"selector": "x"})


def test_two_runs_never_share_a_folder(tmp_path):
    def meet(case):
        run(CASES, Scorer(), tmp_path, {})

    with pytest.raises(ValueError, match="another process is using .*; wait for it, or stop it"):
        run(CASES, meet, tmp_path, {})


def test_a_run_that_failed_at_once_blocks_no_folder(tmp_path):
    def fail(case):
        raise OSError("no such file")

    with pytest.raises(OSError):
        run(CASES, fail, tmp_path, {"selector": "x"})
    assert len(run(CASES[1:], Scorer(), tmp_path, {"selector": "y"})) == len(CASES) - 1


@pytest.mark.parametrize("prompt", ["{question} {foo}", "{0}", "{question"])
def test_a_prompt_with_something_else_in_braces_is_refused(prompt):
    with pytest.raises(ValueError, match="^expected only {question} and {choices} in the brace"):
        accuracy(None, None, prompt)


def test_cells_are_means_of_cases(tmp_path):
    records = run(CASES, Scorer(), tmp_path, {})
    cells = json.loads((tmp_path / "results.json").read_text())
    assert cells == cell_means(records) and len(cells) == 4
    for cell in cells:
        assert set(cell) == {"Num. Frame", "Frame Depth", "Score"}
        mean = np.mean(
            [
                (case.seed + case.length) % 3 / 2
                for case in CASES
                if case.length == cell["Num. Frame"] and 100 * case.depth == cell["Frame Depth"]
            ]
        )
        assert cell["Score"] == pytest.approx(mean)


def test_the_heat_map_shows_each_cell_in_its_place():
    scores = {(64, 0): 0.0, (64, 100): 0.5, (10_000, 0): 1.0}
    image = heat_map(
        [{"Num. Frame": n, "Frame Depth": d, "Score": s} for (n, d), s in scores.items()], "test"
    )
    pixels = np.asarray(image).reshape(-1, 3)
    red, yellow, green = (236, 112, 99), (253, 219, 120), (88, 186, 112)
    places = {}
    for colour in (red, yellow, green):
        hits = np.flatnonzero((pixels == colour).all(1))
        assert len(hits) > 1000
        places[colour] = (hits // image.width).mean(), (hits % image.width).mean()
    assert places[red][0] == pytest.approx(places[green][0], abs=3)  # one row: the same depth
    assert places[red][1] == pytest.approx(places[yellow][1], abs=3)  # one column: one length
    assert places[red][0] < places[yellow][0] and places[red][1] < places[green][1]
    with pytest.raises(ValueError, match="^expected at least one cell, got none$"):
        heat_map([], "test")


@pytest.fixture
def niah():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)

    def invoke(*words: str):
        return CliRunner().invoke(app, list(words))

    return invoke


UNIFORM = ("--selector", "uniform", "--keyframes", "8", "--depths", "2", "--cases", "2")


def test_the_command_writes_results_and_a_heat_map(niah, tmp_path):
    words = ("--out", str(tmp_path / "out"), "--lengths", "40,64", *UNIFORM)
    ended = niah(*words)
    assert ended.exit_code == 0, ended.output
    cells = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(cells) == 4 and (tmp_path / "out" / "heatmap.png").stat().st_size > 1000
    line = f"     40 frames, depth   0 %: {100 * cells[0]['Score']:>3.0f}"
    assert line in ended.stdout.splitlines()
    again = niah(*words, "--json")
    assert json.loads(again.stdout) == cells
    own = niah(
        "--case-file",
        str(tmp_path / "out" / "cases.jsonl"),
        "--out",
        str(tmp_path / "own"),
        *UNIFORM[:4],
        "--json",
    )
    assert json.loads(own.stdout) == cells


def test_the_command_asks_a_model(niah, tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    ended = niah(
        "--out",
        str(tmp_path / "out"),
        "--lengths",
        "20",
        *UNIFORM,
        "--model",
        str(tmp_path / "model"),
        "--merger",
        "mean_pool",
        "--max-tokens",
        "90",
        "--budget",
        "foveated",
        "--max-new-tokens",
        "2",
        "--json",
    )
    assert ended.exit_code == 0, ended.output
    settings_ = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings_["merger"] == {"name": "mean_pool"}
    assert settings_["budget"]["name"] == "foveated" and settings_["budget"]["max_tokens"] == 90
    assert settings_["selector"] == {"name": "uniform", "keyframes": 8}
    records = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert len(records) == 4 and all("text" in json.loads(line) for line in records)
    assert [entry[0] for entry in settings_["files"]] == sorted(os.listdir(tmp_path / "model"))


@pytest.mark.parametrize("option", ["--merger", "--max-tokens", "--budget", "--budget-option"])
def test_what_only_a_model_uses_needs_one(niah, tmp_path, option):
    ended = niah("--out", str(tmp_path), option, "90")
    assert ended.exit_code == 1
    assert f"{option} is for a model's answers; give --model too" in str(ended.exception)


def test_what_a_budget_takes_away_is_told(niah, tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    words = ("--out", str(tmp_path / "out"), "--lengths", "20", *UNIFORM, "--merger", "mean_pool")
    ended = niah(*words, "--model", str(tmp_path / "model"), "--max-tokens", "12")
    assert ended.exit_code == 0, ended.output
    assert re.search(r"note, 4 of 4 cases: .* a budget of 12 .* holds . of the 8 key", ended.output)


def test_a_file_of_cases_excludes_the_options_that_make_cases(niah, tmp_path):
    write_cases(tmp_path / "cases.jsonl", CASES)
    words = ("--out", str(tmp_path), "--case-file", str(tmp_path / "cases.jsonl"))
    ended = niah(*words, "--needle-frames", "9")
    assert "either --case-file or --needle-frames" in str(ended.exception)


def test_the_command_is_registered():
    from vtc_recipes.plugin import vtc_register_commands

    assert vtc_register_commands()["niah"] == f"{command.__module__}:{command.__name__}"


def test_the_command_asks_what_cases_ask_by_default():
    assert signature(command).parameters["kinds"].default == ",".join(ASKED)
    assert {case.kind for case in make_cases([40], [0.5], 12)} == set(ASKED)


def test_the_command_refuses_what_are_no_lengths(niah, tmp_path):
    ended = niah("--out", str(tmp_path), "--lengths", "64,many")
    assert isinstance(ended.exception, ValueError)
    assert str(ended.exception) == "expected lengths to be integers such as 64,256, got '64,many'"


def test_the_documentation_names_options_that_there_are():
    page = (Path(__file__).parents[1] / "docs" / "niah.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--([a-z][a-z-]+)", page))
    options = [*signature(command).parameters, *signature(demo).parameters]
    known = {name.replace("_", "-") for name in options}
    assert len(named) > 8 and named <= known


def test_the_python_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "niah.md").read_text(encoding="utf-8")
    code, _ = re.findall(r"^```python\n(.*?)^```$", page, flags=re.S | re.M)
    space: dict = {}
    exec(code, space)
    for line in code.splitlines():
        expression, _, printed = line.partition("  # ")
        if printed and not printed.startswith("["):
            assert printed.split(":")[0].strip() in str(eval(expression, space)), line
    assert VideoSource(tmp_path / "example.mp4", fps=None).info.frame_count == 16
