"""Grids: how axes combine, what names a cell, and every error before any work."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections import Counter, namedtuple
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vtc
from vtc.plugins import registry
from vtc_recipes.ablation.grid import parse_grid
from vtc_recipes.ablation.hashing import digest, fingerprint
from vtc_recipes.ablation.plan import estimate, prepare, trainings_of
from vtc_recipes.ablation.questions import questions
from vtc_recipes.reading import load_yaml
from vtc_recipes.schema import RecipeError
from vtc_recipes.shipped import shipped

BASE = {
    "model": "tiny:llava_onevision",
    "merger": "mean_pool",
    "task": {"examples": 2, "frames": 12},
    "seeds": [0],
}


def parse(axes: Any, combine: str = "product", **base: Any) -> Any:
    kept = {name: value for name, value in {**BASE, **base}.items() if value is not ...}
    return parse_grid({"base": kept, "axes": axes, "combine": combine}, "mine")


def problems(axes: Any, combine: str = "product", **base: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(axes, combine, **base)
    return "\n".join(caught.value.problems)


def pairs(grid: Any) -> list[tuple[str, int]]:
    return [
        (cell.setting.selector["name"], cell.setting.selector["keyframes"])
        for row in grid.rows
        for cell in row.cells
    ]


def test_a_product_a_zip_and_a_list() -> None:
    axes = {"selector": ["uniform", "dks"], "keyframes": [2, 3]}
    every = [("uniform", 2), ("uniform", 3), ("dks", 2), ("dks", 3)]
    assert pairs(parse(axes)) == every
    assert pairs(parse(axes, "zip")) == [every[0], every[3]]
    axes = {"selector": ["dks", "dks"], "keyframes": [3, 2]}  # twice the same is no mistake here
    assert pairs(parse(axes, "zip")) == [every[3], every[2]]
    points = [{"selector": "dks", "keyframes": 3}, {"keyframes": 2}]
    assert pairs(parse(points, "list", selector="uniform")) == [every[3], every[0]]
    assert pairs(parse({}, selector={"name": "dks", "keyframes": 2})) == [every[2]]


def test_a_budget_belongs_to_a_cell_and_leaves_the_others_their_names() -> None:
    axes = [{}, {"budget": 40}, {"budget": {"name": "even", "max_tokens": 30}}]
    none, number, mapping = (row.cells[0] for row in parse(axes, "list").rows)
    assert "budget" not in none.config and none.id == parse({}).rows[0].cells[0].id
    assert number.config["budget"] == {"name": "even", "max_tokens": 40}
    assert mapping.config["budget"] == {"name": "even", "max_tokens": 30}
    text = problems([{"merger": "tome", "budget": 40}, {"budget": "evn"}, {"budget": 0}], "list")
    assert "merger 'tome' of plug-in" in text and "cannot work with a budget" in text
    assert "Did you mean 'even'" in text and "max_tokens" in text


def test_names_short_and_dotted_mean_the_same() -> None:
    short = parse({"keyframes": [2], "frames": [16], "max_new_tokens": [3]}, selector="dks")
    dotted = parse(
        {"selector.keyframes": [2], "task.frames": [16], "max_new_tokens": [3]}, selector="dks"
    )
    assert [cell.id for cell in short.cells] == [cell.id for cell in dotted.cells]
    [cell] = short.cells
    assert (cell.setting.task.frames, cell.setting.max_new_tokens) == (16, 3)


def test_seeds_make_cells_of_one_row() -> None:
    grid = parse({"keyframes": [2, 3]}, seeds=[0, 4])
    assert [[cell.setting.seed for cell in row.cells] for row in grid.rows] == [[0, 4], [0, 4]]
    own = parse({"keyframes": [2, 3], "seed": [0, 4]}, seeds=...)
    assert [cell.id for cell in own.cells] == [cell.id for cell in grid.cells]
    assert own.axes == grid.axes == ("keyframes",)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_a_name_does_not_depend_on_the_order_of_keys(values: Any) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert digest(turned(values)) == digest(values)
    assert digest([values]) != digest(values)


def test_what_names_a_cell_and_what_does_not() -> None:
    [plain] = parse({}, selector="dks").cells
    spelled = {"fill": "none", "similarity_threshold": 0.85, "name": "dks", "keyframes": 32}
    assert parse({}, selector=spelled).cells[0].id == plain.id
    others: list[dict[str, Any]] = [
        {"selector": {"name": "dks", "keyframes": 31}},
        {"merger": "drop"},
        {"task": {"examples": 3, "frames": 12}},
        {"prompt": "{question}"},
        {"seeds": [1]},
        {"model": "tiny:qwen2_vl"},
    ]
    ids = {parse({}, **{"selector": "dks", **other}).cells[0].id for other in others}
    assert len(ids | {plain.id}) == len(others) + 1


def test_the_files_of_a_model_name_its_cells(tmp_path: Path) -> None:
    vtc.testing.save_tiny_clip(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    same = fingerprint(tmp_path / "one"), fingerprint(tmp_path / "two")
    assert same[0] == same[1]
    vtc.testing.save_tiny_clip(tmp_path / "three", seed=1)
    assert fingerprint(tmp_path / "three") != same[0]
    ids = [
        parse({}, selector="dks", encoder=str(tmp_path / name)).cells[0].id
        for name in ("one", "two", "three")
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("axes", "combine", "base", "message"),
    [
        ({"selector": ["dkss"]}, "product", {}, "selector=dkss: unknown selector 'dkss'"),
        ({"merger": ["mean"]}, "product", {}, "unknown merger 'mean'; known: .*mean_pool"),
        (
            {"selector": [{"name": "dks", "keyframe": 3}]},
            "product",
            {},
            "selector 'dks' has no option 'keyframe'.*Did you mean 'keyframes'",
        ),
        (
            {"selector": ["dks", "uniform"], "similarity_threshold": [0.5]},
            "product",
            {},
            "selector=uniform.*: axes.similarity_threshold is unknown.*'uniform' .keyframes.",
        ),
        ({"keyframes": [2, 0]}, "product", {}, "keyframes=0: .*expected keyframes to be"),
        ({"task.frame": [2]}, "product", {}, "task.frame is unknown; .*'frames'"),
        ({"frames": []}, "product", {}, "axes.frames is empty; name at least one value"),
        ({"frames": 12}, "product", {}, "axes.frames: expected a list of values, got 12"),
        ({"frames": [12, 12]}, "product", {}, "axes.frames: 12 appears twice"),
        (
            {"frames": [12], "keyframes": [1, 2]},
            "zip",
            {},
            "same length, got frames 1, keyframes 2",
        ),
        ({"frames": [12]}, "list", {}, "expected at least one mapping in a list, got {"),
        ([], "list", {}, "expected at least one mapping in a list"),
        (
            [{"seed": 1}, {"frames": 12}],
            "list",
            {"seeds": ...},
            "either all entries or none must have a seed",
        ),
        ([{"frames": 12}, {"selector": "dks"}], "list", {}, "is the same cell as frames=12"),
        ({"seed": [1]}, "product", {}, "base.seeds: the axes have seeds too"),
        ({}, "product", {"seeds": ...}, "base.seeds is missing"),
        ({}, "product", {"seeds": [1, 1]}, "a seed appears twice"),
        ({}, "product", {"seeds": [-1]}, "expected a list of whole numbers >= 0"),
        ({}, "product", {"merger": "q_former"}, "'q_former' has parameters that were not trained"),
        (
            {"model": ["no/where/x"]},
            "product",
            {},
            "'no/where/x' is not a folder; give a folder with a config.json",
        ),
        ({}, "product", {"model": {"recipe": "tiny_vl"}}, "unknown recipe 'tiny_vl'.*'tiny_vlm'"),
        ({}, "product", {"model": {"recip": "smoke"}}, "model.recip is unknown"),
        (
            {"merger": ["q_former"]},
            "product",
            {"model": {"recipe": "smoke", "settings": ["train.merger.how=frozen"]}},
            "leaves merger 'q_former' untrained; add train.merger.how=full",
        ),
        ({}, "product", {"task": {"name": "cases"}}, "task 'cases' needs an existing file"),
        ({"frames": [1]}, "product", {}, "frames=1: task: .*segments"),
        ({}, "product", {"task": {"fps": 1.0}}, "task.fps: expected task.name to be 'videos', got"),
        ({}, "product", {"prompt": "Answer."}, "prompt: expected a text with {question}"),
        ({"prompt": ["{q}"]}, "product", {}, "prompt: expected a text with {question} .*'{q}'"),
        ({}, "product", {"prompt": "{question"}, "prompt: '{question' is not a template"),
        ({}, "product", {"prompt": {"question": None}}, "prompt: expected text in quotes"),
        (
            {},
            "product",
            {"task": {"kinds": ["smell"]}},
            "expected some of colour, .*got \\[.smell.\\]",
        ),
    ],
)
def test_errors_say_which_cell_and_what_to_do(
    axes: Any, combine: str, base: dict[str, Any], message: str
) -> None:
    found = problems(axes, combine, **base)
    assert re.search(message, found), found


def test_all_errors_come_at_once_and_each_once() -> None:
    found = problems({"selector": ["dkss", "dks"], "merger": ["q_former", "drop"]}, seeds=[0, 1])
    lines = found.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("selector=dkss, merger=q_former and 1 more: unknown selector")
    assert "q_former" in lines[1]


def test_a_folder_that_cannot_be_written_and_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = parse({"keyframes": [2, 3]})
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="cannot be written: Not a directory; give another"):
        prepare(grid, tmp_path / "file" / "runs")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
    with pytest.raises(RecipeError, match="has 1 MiB free, and about 10. MiB are needed"):
        prepare(grid, tmp_path / "runs")


def test_trainings_are_one_for_each_merger_and_seed() -> None:
    axes = {"selector": ["uniform", "dks"], "merger": ["q_former", "drop"]}
    grid = parse(axes, model={"recipe": "smoke"}, seeds=[0, 1])
    trainings = trainings_of(grid)
    assert len(grid.cells) == 8 and len(trainings) == 4
    made = {
        (t.values["vtc"]["merger"]["name"], t.values["optimisation"]["seed"]) for t in trainings
    }
    assert made == {("q_former", 0), ("q_former", 1), ("drop", 0), ("drop", 1)}
    how = {t.values["vtc"]["merger"]["name"]: t.values["train"]["merger"]["how"] for t in trainings}
    assert how == {"q_former": "full", "drop": "frozen"}
    assert {t.values["vtc"]["selector"]["name"] for t in trainings} == {"dks"}


def test_the_parts_of_a_saved_model_are_taken_where_the_grid_says_nothing() -> None:
    [row, other] = parse({"merger": [None, "drop"]}, model="shipped", merger=...).rows
    saved = row.cells[0].setting.merger
    assert saved["name"] == "dfm" and saved["projection"] == "learned"
    assert row.label == "merger=as saved" and other.label == "merger=drop"
    [warm] = parse({"temperature": [0.5]}, model="shipped", merger=...).cells
    assert warm.setting.merger == {**saved, "temperature": 0.5}


@pytest.mark.parametrize("file", shipped("ablation"), ids=lambda file: file.name)
def test_every_shipped_grid_is_valid_and_one_line_makes_it_a_large_one(file: Any) -> None:
    values = load_yaml(file.path)
    grid = parse_grid(values, file.name)
    cost = estimate(grid, Path("nowhere"))
    assert cost.cells == len(grid.cells) > 1 and cost.seconds is None and cost.questions
    text = file.path.read_text(encoding="utf-8")
    assert f"#   vtc ablate {file.name}\n" in text
    [line] = [line for line in text.splitlines() if line.strip().startswith("model: ")]
    large = line.partition("# or: ")[2]
    if not large:
        [large] = [one.partition("# model: ")[2] for one in text.splitlines() if "# model: " in one]
    changed = yaml.safe_load(text.replace(line, f"  model: {large}"))
    assert len(parse_grid(changed, "large").cells) == len(grid.cells)


def test_lease_seconds_is_deprecated_and_has_no_effect() -> None:
    values = {"base": BASE, "axes": {"keyframes": [2]}}
    with pytest.warns(DeprecationWarning, match="lease_seconds is deprecated .*; remove it"):
        grid = parse_grid({**values, "lease_seconds": 60}, "mine")
    assert [cell.id for cell in grid.cells] == [c.id for c in parse_grid(values, "mine").cells]


def test_table2_is_that_of_the_paper() -> None:
    grid = parse_grid(
        load_yaml(next(f.path for f in shipped("ablation") if f.name == "table2")), ""
    )
    parts = {(c.setting.selector["name"], c.setting.merger["name"]) for c in grid.cells}
    assert len(grid.rows) == len(parts) == 12 and len(trainings_of(grid)) == 15
    assert {t.staged for t in trainings_of(grid)} == {True}
    assert Counter(t.kind for t in trainings_of(grid)) == {
        ("tiny_vlm_short", 2): 3,
        ("tiny_vlm_short", 4): 12,
    }


@pytest.fixture
def every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A selector of a third party, installed for the time of a test."""
    (tmp_path / "acme_parts.py").write_text(
        "import torch, vtc\n"
        "class EverySecond(vtc.FrameSelector):\n"
        "    uses_query = uses_embeddings = False\n"
        "    def select(self, embeddings, query=None, timestamps=None):\n"
        "        return vtc.Selection(torch.arange(0, len(embeddings), 2), None)\n"
        "@vtc.hookimpl\n"
        "def vtc_register_selectors():\n"
        "    return {'every_second': EverySecond}\n"
    )
    info = tmp_path / "acme_vtc-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-vtc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtc]\nacme = acme_parts\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "_registry", registry.Registry())


def test_questions_about_videos_of_ones_own(tmp_path, command):
    vtc.testing.write_video(tmp_path / "squares.mp4", vtc.testing.moving_squares(seconds=8))
    free = {"video": "squares.mp4", "question": "What is red?", "answer": "a square"}
    choice = {"video": "squares.mp4", "question": "Red?", "answer": "no", "choices": ["yes", "no"]}
    lines = [{**free, "kind": "what"}, choice]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"name": "videos", "file": str(file), "frames": 6}
    values = {"base": {**BASE, "task": task}, "axes": {"selector": ["uniform", "dks"]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    words = ("ablate", tmp_path / "grid.yaml", "--out", tmp_path / "runs")
    code, _, err = command(*words)
    assert code == 1 and "{choices} would be empty in 1 of 2 questions, first in number 1" in err
    words = (*words[:2], "base.prompt={question}", *words[2:])
    code, out, err = command(*words, "--json")
    assert code == 0, err
    row = json.loads(out)["rows"][0]
    assert row["questions"] == 2 * len(BASE["seeds"]) and row["coverage"] is None
    assert set(row["kinds"]) == {"what", "question"} and row["chance"] == 0.25
    assert row["tokens_before"] == 6 * 4 + 1
    page = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "coverage.png" not in page and "examples" not in page
    assert "the paper" not in page.lower() and "ViLAMP" not in page
    answers = next((tmp_path / "runs" / "cells").glob("*/predictions.jsonl")).read_text()
    asked = [json.loads(line)["question"] for line in answers.splitlines()]
    assert asked == ["What is red?", "Red?"]
    [cell] = parse({}, task=task, prompt="{question}").cells
    [often] = parse({}, task={**task, "fps": 2.0}, prompt="{question}").cells
    [rarely] = parse({}, task={**task, "fps": 0.5}, prompt="{question}").cells
    samples = [
        len(next(questions(one.setting.task, 0)).video().timestamps)
        for one in (cell, often, rarely)
    ]
    assert samples == [6, 6, 4] and len({cell.id, often.id, rarely.id}) == 3
    file.write_text(json.dumps(lines[0]) + "\n")
    assert parse({}, task=task, prompt="{question}").cells[0].id != cell.id
    wrong = [{"video": "no.mp4", "question": "?", "answer": "no", "choices": ["yes"]}, {"clip": 1}]
    file.write_text("".join(json.dumps(line) + "\n" for line in wrong) + "{")
    code, _, err = command(*words)
    assert code == 1 and "line 1: expected answer to be one of ('yes',), got 'no'" in err
    for text in ("line 1: video: there is no file", "line 2: clip", "line 3 is not valid JSON"):
        assert text in err


def test_a_selector_of_a_third_party_enters_by_its_name(every_second: None, tmp_path, command):
    values = {"base": BASE, "axes": {"selector": ["uniform", "every_second"]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    words = ("ablate", tmp_path / "grid.yaml", "--out", tmp_path / "runs")
    code, out, err = command(*words, "--dry-run", "--json")
    assert code == 0 and not (tmp_path / "runs").exists(), err
    assert [cell["done"] for cell in json.loads(out)["cells"]] == [False, False]
    code, out, err = command(*words, "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["values"]["selector"] for row in rows] == ["uniform", "every_second"]
    assert rows[1]["questions"] == 2
    files = (tmp_path / "runs" / "cells").glob("*/environment.json")
    [folder] = [file.parent for file in files if "acme-vtc 1.0" in file.read_text()]
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["keyframes"] == [0, 2, 4, 6, 8, 10]
    code, out, err = command(*words, "--dry-run")
    assert "2 of 2 cells" in out and "0 questions" in out
    for kept, problem in (
        (lines[::-1], "line 1: expected an answer to question 0, got one to 1; remove"),
        ([*lines, lines[0]], "has 3 answers to 2 questions; remove"),
    ):
        unfinished = tmp_path / "runs" / "working" / folder.name
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        (unfinished / "predictions.jsonl").write_text("".join(f"{line}\n" for line in kept))
        shutil.rmtree(folder, ignore_errors=True)
        code, out, err = command(*words)
        assert code == 1 and problem in " ".join((out + err).split())
