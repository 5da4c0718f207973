"""Reports: intervals against a slow reference, and hand-made records read, shown and drawn."""

from __future__ import annotations

import csv
import json
import random
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from vtc_recipes.ablation.plots import NOTE, coverage_plot, pareto_front, pareto_plot
from vtc_recipes.ablation.records import read_results
from vtc_recipes.ablation.report import write_report
from vtc_recipes.ablation.tables import PAPER
from vtc_recipes.evaluation.bootstrap import interval


def slow_interval(scores: list[list[float]], seeds: bool) -> tuple[float, float]:
    """One draw after another, one question after another."""
    draw, means = random.Random(1), []
    for _ in range(3000):
        chosen = draw.choices(scores, k=len(scores)) if seeds else scores
        found = [score for one in chosen for score in draw.choices(one, k=len(one))]
        means.append(statistics.fmean(found))
    edges = statistics.quantiles(means, n=40)
    return edges[0], edges[-1]


@pytest.mark.parametrize("seeds", [False, True])
def test_intervals_are_those_of_a_slow_bootstrap(seeds: bool) -> None:
    draw = random.Random(0)
    scores = [[float(draw.random() < share) for _ in range(60)] for share in (0.3, 0.5, 0.8)]
    differences = [[draw.choice((-1.0, 0.0, 0.0, 1.0)) for _ in range(40)] for _ in range(3)]
    for given in (scores, differences):
        assert interval(given, seeds=seeds) == pytest.approx(slow_interval(given, seeds), abs=0.02)
        assert interval(given, seeds=seeds) == interval(given, seeds=seeds)
    low, high = interval(scores, seeds=True)
    narrow = interval(scores)
    assert high - low > 1.5 * (narrow[1] - narrow[0])  # seeds differ more than questions


def test_pairing_makes_a_difference_certain_that_is_the_same_for_all() -> None:
    assert interval([[1.0] * 30]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one seed"):
        interval([])
    with pytest.raises(ValueError, match="at least one score"):
        interval([[1.0], []])


def make_run(
    runs: Path, rows: list[dict[str, Any]], axes: list[str], trained: bool = False
) -> None:
    """A folder as `vtc ablate` leaves it; ``right`` of a row is a list of 0 and 1 by seed."""
    described = []
    for number, row in enumerate(rows):
        cells = {str(seed): f"cell{number}-{seed}" for seed in row["right"]}
        for seed, right in row["right"].items():
            if right is None:
                continue
            folder = runs / "cells" / cells[str(seed)]
            folder.mkdir(parents=True)
            records = [
                {
                    "id": str(place),
                    "kind": ("colour", "after")[place % 2],
                    "question": f"{seed}, {place}",
                    "answer": "red",
                    "right": bool(one),
                    "covered": place % 2 == 0,
                    "chance": 0.25,
                    "tokens_before": 100,
                    "tokens_after": row.get("tokens", 10),
                    "seconds": 1.0 + place,
                }
                for place, one in enumerate(right)
            ]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (folder / "predictions.jsonl").write_text(lines)
            metrics = {"macs": 2e9, "questions": len(right), "seconds": 1, "encoder_seconds": 1}
            (folder / "metrics.json").write_text(json.dumps(metrics))
            task = {"name": "questions", "frames": 64, "kinds": ["colour", "after"], "file": None}
            config = {
                "model_name": "shipped",
                "task": {**task, "examples": len(right)},
                "selector": {"name": "dks", "keyframes": number},
                "merger": {"name": "dfm"},
                "prompt": "{question}",
            }
            (folder / "config.json").write_text(json.dumps(config))
            where = {"device": "cpu", "system": "Linux", "threads": 1}
            environment = {**where, "libraries": {"torch": f"2.{number}"}}
            (folder / "environment.json").write_text(json.dumps(environment))
        label = ", ".join(f"{k}={v}" for k, v in row["values"].items())
        described.append(
            {
                "label": label,
                "values": row["values"],
                "cells": cells,
                "trained": row.get("trained", trained),
            }
        )
    grid = {"name": "mine", "note": "No fair game.", "axes": axes, "rows": described}
    (runs / "grid.json").write_text(json.dumps(grid))


ROWS = [
    {"values": {"selector": "dks", "keyframes": 4}, "right": {0: [1, 1, 0, 0], 1: [1, 0, 0, 0]}},
    {
        "values": {"selector": "dks", "keyframes": 8},
        "right": {0: [1, 1, 1, 0], 1: [1, 1, 0, 0]},
        "tokens": 20,
    },
    {
        "values": {"selector": {"name": "uniform"}, "keyframes": 4},
        "right": {0: [0, 0, 1, 1], 1: None},
        "tokens": 15,
    },
    {"values": {"selector": {"name": "uniform"}, "keyframes": 8}, "right": {0: None, 1: None}},
]


def test_rows_are_means_over_questions_and_seeds(tmp_path: Path) -> None:
    make_run(tmp_path, ROWS, ["selector", "keyframes"])
    results = read_results(tmp_path)
    first, second, third = results.rows
    assert (first.accuracy.mean, second.accuracy.mean, third.accuracy.mean) == (3 / 8, 5 / 8, 1 / 2)
    assert first.difference is None
    assert second.difference is not None and second.difference.mean == 2 / 8
    assert second.difference.low >= 0  # never worse, question by question
    assert third.difference is not None and third.difference.mean == 0  # seed 0 alone
    assert third.difference.low < 0 < third.difference.high
    assert (third.seeds, third.missing, third.questions) == ((0,), (1,), 4)
    assert (first.coverage.mean, first.seconds, first.macs) == (0.5, 2.5, 2e9)
    other = read_results(tmp_path, against=2)
    assert [row.difference and row.difference.mean for row in other.rows] == [-2 / 8, None, -1 / 4]
    for wrong in (0, 4):  # the fourth row of the grid has no results, and no line in the table
        message = f"expected against to be a row with results, 1 to 3, got {wrong}"
        with pytest.raises(ValueError, match=message):
            read_results(tmp_path, against=wrong)
    make_run(tmp_path / "waiting", [ROWS[3], *ROWS[:2]], ["selector", "keyframes"])
    first, second = read_results(tmp_path / "waiting").rows
    assert first.difference is None and second.difference is not None
    assert second.difference.mean == 2 / 8
    assert results.waiting == ("selector={'name': 'uniform'}, keyframes=8",)


def test_other_questions_are_not_compared(tmp_path: Path) -> None:
    rows = [ROWS[0], {"values": {"frames": 9}, "right": {0: [1, 1, 1], 1: [1, 1, 1]}}]
    make_run(tmp_path, rows, ["selector"])
    assert read_results(tmp_path).rows[1].difference is None


def test_seeds_that_are_trainings_widen_the_interval(tmp_path: Path) -> None:
    rows = [{"values": {}, "right": {0: [1] * 20, 1: [0] * 20}}]
    for trained in (False, True):
        make_run(tmp_path / str(trained), rows, [], trained)
    fixed, drawn = (read_results(tmp_path / str(trained)).rows[0] for trained in (False, True))
    assert (fixed.accuracy.low, fixed.accuracy.high) == (0.5, 0.5)
    assert (drawn.accuracy.low, drawn.accuracy.high) == (0.0, 1.0)


def test_rows_with_one_model_for_all_seeds_stand_beside_trained_ones(tmp_path: Path) -> None:
    right = {0: [1] * 20, 1: [0] * 10 + [1] * 10, 2: [0] * 20}
    rows = [{"values": {"k": k}, "right": right, "trained": k == 1} for k in (1, 2)]
    make_run(tmp_path, rows, ["k"])
    trained, fixed = read_results(tmp_path).rows
    assert (trained.trained, fixed.trained) == (True, False)
    assert trained.accuracy.low < fixed.accuracy.low < fixed.accuracy.high < trained.accuracy.high
    text = write_report(tmp_path, tmp_path / "out").file.read_text()
    assert "where it is a separate training, seeds and questions are resampled" in text


def test_the_report_shows_all_of_it(tmp_path: Path) -> None:
    make_run(tmp_path, ROWS, ["selector", "keyframes"])
    written = write_report(tmp_path, tmp_path / "out")
    page = written.file.read_text()
    assert "| dks | 8 | 62.5 (" in page and "| +25.0 (" in page
    assert "All cells: seeds 0, 1; model shipped; merger dfm; task questions; frames 64;" in page
    assert "\nNo fair game.\n" in page
    assert "file" not in page and "torch" not in page  # nothing, and not the same in all
    assert "| selector | keyframes | colour | after |" in page
    assert re.search(r"\| dks \| 8 \| 75\.0 \(.*\) \| 50\.0 \(", page)
    assert "| 4 (seeds missing: 1) |" in page and "Not done yet" in page
    assert page.count("another model, other data") == 2  # Table 2 and Figure 6
    assert "| +DFM (Ours) | 60.5 | 72.6 | 65.1 |" in page and "Table 6" not in page
    lines = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [line["selector"] for line in lines] == ["dks", "dks", "uniform"]
    assert float(lines[1]["difference"]) == 0.25 and lines[2]["missing_seeds"] == "1"
    assert written.to_dict()["rows"][1]["accuracy"]["mean"] == 0.625


def test_plots_are_drawn_where_they_can_be(tmp_path: Path, monkeypatch: Any) -> None:
    values = [(t, tau) for t in (0.1, 1) for tau in (0.5, 0.85)]
    rows = [
        {
            "values": {"temperature": t, "similarity_threshold": tau},
            "right": {0: [1, 0, number % 2]},
        }
        for number, (t, tau) in enumerate(values)
    ]
    make_run(tmp_path, rows, ["temperature", "similarity_threshold"])
    with monkeypatch.context() as context:
        context.setitem(__import__("sys").modules, "matplotlib.figure", None)
        page = write_report(tmp_path, tmp_path / "plain").file.read_text()
    assert NOTE in page and "![Right answers by temperature and" in page
    with Image.open(tmp_path / "plain" / "heatmap.png") as image:
        assert image.size[0] > 200
    pytest.importorskip("matplotlib", reason="the extra [plots] is not installed")
    make_run(tmp_path / "two", ROWS, ["selector", "keyframes"])
    page = write_report(tmp_path / "two", tmp_path / "full").file.read_text()
    names = {"keyframes", "coverage", "pareto_tokens", "pareto_macs", "pareto_seconds"}
    assert {file.stem for file in (tmp_path / "full").glob("*.png")} == names
    assert all(f"({name}.png)" in page for name in names) and NOTE not in page


def test_plots_of_many_rows_name_the_best_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra [plots] is not installed")
    rows = [
        {
            "values": {"merger": f"merger with quite a long name that has the number {n}"},
            "right": {0: [1] * n + [0] * (20 - n)},
            "tokens": 10 if n < 19 else 20,
        }
        for n in range(20)
    ]
    make_run(tmp_path, rows, ["merger"])
    results = read_results(tmp_path)
    for figure, named in (
        (pareto_plot(results, "tokens_after", "tokens"), {18, 19}),
        (coverage_plot(results), {14, 15, 16, 17, 18, 19}),
    ):
        [legend] = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert {int(text.split()[-1]) for text in texts if "number" in text} == named
        assert "other rows of the table" in texts
        dots = sum(line.get_color() == "silver" for line in figure.axes[0].lines)
        assert dots == 20 - len(named) + 1  # one in the legend
        assert figure.get_figheight() > 5


def test_plots_do_not_move_points_and_colour_shows_the_selector(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra [plots] is not installed")
    rows = [
        {"values": {"selector": selector, "merger": merger}, "right": {0: [1, 1, 0, 1]}}
        for selector in ("dks", "uniform")
        for merger in ("dfm", "drop", "q_former")
    ]
    make_run(tmp_path, rows, ["selector", "merger"])
    results = read_results(tmp_path)
    for figure in (coverage_plot(results), pareto_plot(results, "tokens_after", "tokens")):
        places, styles = [], []
        for container in figure.axes[0].containers:
            line = container.lines[0]
            assert line.get_transform().contains_branch(figure.axes[0].transData)
            places += figure.axes[0].transData.inverted().transform(
                line.get_transform().transform(line.get_xydata())
            ).tolist()  # fmt: skip
            styles.append((line.get_color(), line.get_marker()))
        across = 50.0 if figure.axes[0].get_xlabel() == "evidence seen, %" else 10.0
        assert places == [pytest.approx([across, 75.0])] * 6
        colours, marks = ([style[n] for style in styles] for n in (0, 1))
        assert colours == [colours[0]] * 3 + [colours[3]] * 3 and colours[0] != colours[3]
        assert marks == marks[:3] * 2 and len(set(marks)) == 3


def test_the_front_holds_what_nothing_cheaper_equals(tmp_path: Path) -> None:
    make_run(tmp_path, ROWS, ["selector", "keyframes"])
    rows = read_results(tmp_path).rows
    assert [row.tokens_after for row in pareto_front(rows, "tokens_after")] == [10, 15, 20]
    assert [row.label for row in pareto_front(rows, "macs")] == ["selector=dks, keyframes=8"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("grid.json", "{", "grid.json is not valid JSON: Expecting"),
        ("grid.json", '{"name": "mine"}', "grid.json has 2 errors:\n  - axes is missing"),
        ("cells/cell0-0/metrics.json", "[]", "metrics.json has 1 error:\n  - expected a mapping"),
        ("cells/cell0-0/config.json", "", "config.json is not valid JSON"),
        ("cells/cell0-0/predictions.jsonl", "{}\n{", "predictions.jsonl, line 1: id is missing"),
        ("cells/cell0-0/predictions.jsonl", "{}\n{", "predictions.jsonl, line 2 is not valid"),
        ("cells/cell0-0/predictions.jsonl", "\n", "predictions.jsonl is empty; delete "),
    ],
)
def test_damaged_files_of_a_run_are_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    make_run(tmp_path, ROWS, ["selector", "keyframes"])
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_results(tmp_path)


def test_errors_say_what_to_do(tmp_path: Path, command: Any) -> None:
    code, _, err = command("report", tmp_path)
    assert code == 1 and "holds no grid.json: give a folder that vtc ablate wrote" in err
    make_run(tmp_path, [ROWS[3]], ["selector", "keyframes"])
    code, _, err = command("report", tmp_path)
    assert code == 1 and "is done yet; run vtc ablate" in err


def test_the_papers_numbers_stand_in_full_rows() -> None:
    two, six, sensitivity = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    assert (len(two["rows"]), len(sensitivity["rows"])) == (7, 16)
    for table in (two, six, sensitivity):
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    best = max(sensitivity["rows"], key=lambda row: sum(row[2:]))
    assert best[:2] == [0.01, 0.85] and best[2:] == two["rows"][4][1:]  # as the paper says
    assert "16" in str(six["rows"][0]) and "no values" in six["note"]
