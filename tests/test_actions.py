"""Action recognition as multiple choice: layouts of the benchmarks, options, questions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import vtc
from vtc_recipes.ablation.videos import read_videos
from vtc_recipes.evaluation.actions import (
    Clip,
    make_question,
    read_activitynet,
    read_something_v2,
    read_ucf101,
    write_questions,
)

LABELS = [f"action {n}" for n in range(10)]


def ucf101(folder: Path) -> None:
    classes = ("ApplyEyeMakeup", "BoxingPunchingBag", "YoYo", "HulaHoop", "Archery")
    (folder / "classInd.txt").write_text("".join(f"{n} {c}\n" for n, c in enumerate(classes, 1)))
    files = [f"{name}/v_{name}_g0{group}_c01.avi" for name in classes for group in (1, 2)]
    (folder / "testlist01.txt").write_text("\n".join(files) + "\n")
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()


def test_ucf101_is_read_from_its_lists(tmp_path: Path) -> None:
    ucf101(tmp_path)
    test = read_ucf101(tmp_path)
    assert test.labels[:2] == ("apply eye makeup", "boxing punching bag")
    assert test.clips[2] == Clip(
        "BoxingPunchingBag/v_BoxingPunchingBag_g01_c01.avi", (test.labels[1],)
    )
    (tmp_path / "testlist01.txt").write_text("Nothing/v.avi")
    with pytest.raises(ValueError, match="testlist01.txt, line 1: expected CLASS/FILE, got 'Nothi"):
        read_ucf101(tmp_path)


def test_something_v2_is_read_from_its_templates(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"Holding something": "0", "Putting something": "1"}')
    entry = {"id": "74225", "label": "holding a cup", "template": "Holding [something]"}
    (tmp_path / "validation.json").write_text(json.dumps([entry]))
    test = read_something_v2(tmp_path)
    assert test.clips == (Clip("74225.webm", ("Holding something",)),) and len(test.labels) == 2
    (tmp_path / "validation.json").write_text(json.dumps([{"id": 3}]))
    with pytest.raises(ValueError, match="validation.json, entry 0 has 2 errors:\n  - id"):
        read_something_v2(tmp_path)


def test_activitynet_takes_the_validation_set_and_all_labels(tmp_path: Path) -> None:
    def video(subset: str, *labels: str) -> dict[str, Any]:
        segments = [{"label": label, "segment": [0.0, 1.0]} for label in labels]
        return {"subset": subset, "duration": 9.0, "annotations": segments}

    database = {"a": video("training", "Polo"), "b": video("validation", "Archery", "Polo")}
    file = tmp_path / "activity_net.v1-3.min.json"
    file.write_text(json.dumps({"database": {**database, "c": video("testing")}, "taxonomy": []}))
    test = read_activitynet(file)
    assert test.clips == (Clip("v_b.mp4", ("Archery", "Polo")),)
    assert test.labels == ("Archery", "Polo")


@pytest.mark.parametrize("count", [2, 4, 8, None])
def test_options_hold_the_answer_once_and_no_other_label_of_the_video(count: int | None) -> None:
    clips = [Clip(f"{n}.mp4", (LABELS[n % 10], LABELS[(n + 1) % 10])) for n in range(200)]
    places: Counter[str] = Counter()
    for clip in clips:
        row = make_question(clip, LABELS, count, 0)
        lines = dict(line.split(". ") for line in row["question"].splitlines()[1:])
        assert list(lines) == row["choices"] and len(lines) == (count or 9)
        assert lines[row["answer"]] == clip.labels[0] and clip.labels[1] not in lines.values()
        assert len(set(lines.values())) == len(lines)
        assert row == make_question(clip, LABELS, count, 0)
        places[row["answer"]] += 1
    assert max(places.values()) < 2.2 * 200 / (count or 9)
    assert [make_question(c, LABELS, count, 1) for c in clips] != [
        make_question(c, LABELS, count, 0) for c in clips
    ]


def test_similar_distractors_are_the_nearest_labels() -> None:
    nearest = {LABELS[0]: LABELS[1:]}
    row = make_question(Clip("a.mp4", (LABELS[0], LABELS[2])), LABELS, 4, 0, nearest)
    lines = {line.split(". ")[1] for line in row["question"].splitlines()[1:]}
    assert lines == {"action 0", "action 1", "action 3", "action 4"}


def test_more_than_26_options_are_numbered() -> None:
    labels = [f"action {n}" for n in range(30)]
    row = make_question(Clip("a.mp4", (labels[3],)), labels, None, 0)
    assert row["choices"] == [str(n) for n in range(1, 31)]


def test_the_file_is_one_that_grids_read(tmp_path: Path, capsys: Any) -> None:
    ucf101(tmp_path)
    out = tmp_path / "questions.jsonl"
    write_questions("ucf101", tmp_path, tmp_path, out, limit=6)
    rows = read_videos(str(out))
    assert len(rows) == 6 and {row.kind for row in rows} == {"ucf101"}
    assert "6 questions in" in capsys.readouterr().out and len(rows[0].choices) == 4
    vtc.testing.save_tiny_clip(tmp_path / "clip")
    clip = str(tmp_path / "clip")
    write_questions("ucf101", tmp_path, tmp_path, out, "all", "similar", clip)
    assert {len(row.choices) for row in read_videos(str(out))} == {5}
    (tmp_path / "YoYo" / "v_YoYo_g01_c01.avi").unlink()
    with pytest.raises(ValueError, match="1 of 10 videos are missing: .*v_YoYo_g01_c01.avi"):
        write_questions("ucf101", tmp_path, tmp_path, out)
    with pytest.raises(ValueError, match="expected options to be all or a number >= 2, got '1'"):
        write_questions("ucf101", tmp_path, tmp_path, out, "1")
