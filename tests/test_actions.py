"""Action recognition as multiple choice: layouts of the benchmarks, options, questions."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vtc
from vtc_recipes.ablation.videos import read_videos
from vtc_recipes.evaluation.actions import (
    Clip,
    make_question,
    make_questions,
    parse_count,
    read_activitynet,
    read_something_v2,
    read_ucf101,
)
from vtc_recipes.evaluation.actions_cli import summarise
from vtc_recipes.evaluation.bootstrap import wilson
from vtc_recipes.evaluation.choices import average_precision, name_tokens, option_scores
from vtc_recipes.evaluation.fakes import write_fake

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
    assert row["choices"] == [f"{n:02}" for n in range(1, 31)]


def test_questions_are_drawn_by_the_seed_and_missing_videos_are_named(tmp_path: Path) -> None:
    ucf101(tmp_path)
    vtc.testing.save_tiny_clip(tmp_path / "clip")
    clip = str(tmp_path / "clip")
    rows = make_questions("ucf101", tmp_path, tmp_path, count=None, similar_by=clip)
    assert {len(row["choices"]) for row in rows} == {5} and len(rows) == 10
    drawn = [make_questions("ucf101", tmp_path, tmp_path, limit=6, seed=n) for n in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 6
    (tmp_path / "YoYo" / "v_YoYo_g01_c01.avi").unlink()
    with pytest.raises(ValueError, match="1 of 10 videos are missing, .*v_YoYo_g01_c01.avi"):
        make_questions("ucf101", tmp_path, tmp_path)
    assert len(make_questions("ucf101", tmp_path, tmp_path, only_present=True)) == 9
    (tmp_path / "YoYo" / "v_YoYo_g01_c01.mkv").touch()
    assert len(make_questions("ucf101", tmp_path, tmp_path)) == 10
    with pytest.raises(ValueError, match="10 of 10 videos are missing"):
        make_questions("ucf101", tmp_path, tmp_path / "clip", only_present=True)
    (tmp_path / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\n" * 2)
    with pytest.raises(
        ValueError, match="each video once in .*, got YoYo/v_YoYo_g01_c01.avi twice"
    ):
        make_questions("ucf101", tmp_path, tmp_path)
    (tmp_path / "testlist01.txt").write_text("")
    with pytest.raises(ValueError, match="expected at least one test video in .*, got none"):
        make_questions("ucf101", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="expected options to be all or a number >= 2, got '1'"):
        parse_count("1")


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("fakes")
    for name in ("ucf101", "activitynet"):
        write_fake(name, folder)
    return folder


@pytest.fixture(scope="module")
def tiny() -> Any:
    model, processor = vtc.testing.tiny("llava_onevision")
    encoder = vtc.testing.tiny_encoder()
    selector = vtc.selector("uniform", keyframes=2)
    return vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder), processor


NAMES = {"letters": ["A", "B", "C", "D"], "numbers": [f"{n:03}" for n in (1, 2, 17, 117)]}


@pytest.mark.parametrize("kind", NAMES)
def test_scores_of_options_are_those_of_their_whole_texts(tiny: Any, kind: str) -> None:
    model, processor = tiny
    source = vtc.VideoSource(vtc.testing.drifting_video(9), fps=1.0)
    scores, report = option_scores(model, processor, source, "Which?", NAMES[kind], together=3)
    expected = []
    for name in NAMES[kind]:  # each option by itself, in one pass
        inputs = vtc.prepare_inputs(model, processor, source, "Which?")
        ids = torch.tensor([processor.tokenizer(name, add_special_tokens=False)["input_ids"]])
        for key, value in inputs.items():
            if isinstance(value, torch.Tensor):
                more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                inputs[key] = torch.cat([value, more.get(key, torch.zeros_like(ids))], dim=1)
        with torch.no_grad():
            logits = model(**inputs).logits[0].double().log_softmax(-1)
        count = ids.shape[1]
        rows = logits[-count - 1 : -1]
        expected.append(rows[torch.arange(count), ids[0]].sum())
    torch.testing.assert_close(
        torch.tensor(scores, dtype=torch.float64),
        torch.stack(expected).softmax(0),
        rtol=0,
        atol=1e-5,
    )
    assert max(scores) - min(scores) > 1e-3 and report.tokens_after == 2 * 4 + 7 + 1


@pytest.mark.parametrize(("query", "expected"), [("What?", "What?"), (None, "Which?\nA. red")])
def test_keyframes_are_selected_for_the_query(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, query: str | None, expected: str
) -> None:
    model, processor = tiny
    generate, queries = model.generate, []

    def record(**inputs: Any) -> Any:
        queries.extend(inputs["vtc_query"])
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", record)
    source = vtc.VideoSource(vtc.testing.drifting_video(4), fps=1.0)
    option_scores(model, processor, source, "Which?\nA. red", ["A", "B"], query=query)
    assert queries == [expected]


def test_options_that_a_tokenizer_writes_alike_are_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="cannot distinguish the options '1' and '10'"):
        name_tokens(tiny[1], ["1", "2", "10"])


def test_average_precision_is_that_counted_by_hand() -> None:
    assert average_precision([3, 2, 1], [True, True, False]) == 1
    assert average_precision([3, 2, 1], [False, False, True]) == pytest.approx(1 / 3)
    assert average_precision([4, 3, 2, 1], [False, True, False, True]) == (1 / 2 + 2 / 4) / 2
    assert average_precision([1, 1, 1, 1], [True, False, False, False]) == 1 / 4
    assert average_precision([2, 1, 1], [True, True, False]) == (1 + 2 / 3) / 2
    with pytest.raises(ValueError, match="expected at least one positive"):
        average_precision([1], [False])


def record(options: str, right: int, scores: Any) -> dict[str, Any]:
    plain = {"options": [*options], "right": right, "scores": scores, "video": options}
    more = {"error": None, "tokens": 4, "keyframes": 1, "seconds": 0.5}
    return {**plain, **more} if scores else {**plain, "error": "broken"}


def test_accuracy_and_map_are_those_counted_by_hand() -> None:
    records = [
        record("ab", 0, [0.9, 0.1]),
        record("cb", 1, [0.8, 0.2]),  # b is right, ranked first: 0.2 > 0.1
        record("ac", 1, [0.4, 0.6]),  # c is right, below the 0.8 of the second clip
        record("ab", 0, None),  # a is right, with the score 0 of three others
    ]
    results = summarise(records)
    assert results["accuracy"] == 2 / 4 and results["errors"] == 1
    a = (1 + 2 / 4) / 2  # the first clip alone above; the last shares its score with the second
    assert results["map"] == pytest.approx((a + 1 + 1 / 2) / 3) and results["classes"] == 3
    assert results["accuracy_chance"] == 1 / 2 and results["tokens"] == 4
    assert results["accuracy_interval"] == wilson(2, 4)


def test_scores_by_chance_reach_the_chance_level() -> None:
    rng = np.random.default_rng(0)
    records = []
    for number in range(200):
        options = rng.permutation(6)[:4]
        letters = "".join("abcdef"[n] for n in options)
        records.append(record(letters, number % 4, rng.dirichlet(np.ones(4)).tolist()))
    results = summarise(records)
    low, high = results["accuracy_interval"]
    assert low < results["accuracy_chance"] == 0.25 < high
    assert results["map"] == pytest.approx(results["map_chance"], abs=0.06)


def test_the_command_scores_resumes_and_prints_chance(
    fakes: Path, tmp_path: Path, command: Any
) -> None:
    words = ["evaluate", "actions", "ucf101", "--annotations", fakes / "ucf101"]
    words += ["--videos", fakes / "ucf101", "--model", "tiny:llava_onevision"]
    words += ["--selector", "uniform", "--keyframes", 2, "--limit", 4, "--out", tmp_path / "out"]
    code, out, err = command(*words)
    assert code == 0, err
    assert "ucf101, 4 videos, 4 options, random distractors" in out
    assert re.search(r"accuracy +[\d.]+ +95 % .* chance 25.0\n", out) and "mAP" in out
    assert "accuracy 97.6 (Table 4)" in out
    rows = read_videos(str(tmp_path / "out/questions.jsonl"))
    assert len(rows) == 4 and len(rows[0].choices) == 4
    records = tmp_path / "out/records.jsonl"
    before = records.read_text().splitlines()
    records.write_text("\n".join(before[:3]) + "\n" + before[3][:20])  # as of a killed process
    code, out, _ = command(*words, "--json")
    assert code == 0 and json.loads(out)["n"] == 4
    assert records.read_text().splitlines()[:3] == before[:3]
    code, _, err = command(*words, "--options", "all")
    assert code == 1 and "holds results with another options" in err
    file = str(tmp_path / "grid/questions.jsonl")
    code, out, _ = command(*words[:-1], tmp_path / "grid", "--questions-only", "--json")
    assert code == 0 and json.loads(out) == {"file": file, "questions": 4}
    assert len(read_videos(file)) == 4


def test_a_broken_video_is_wrong_and_asked_again(fakes: Path, tmp_path: Path, command: Any) -> None:
    data = tmp_path / "data"
    shutil.copytree(fakes / "activitynet", data)
    broken = data / "videos/v_fake2.mp4"
    content = broken.read_bytes()
    broken.write_bytes(b"no video")
    words = ["evaluate", "actions", "activitynet", "--videos", data / "videos"]
    words += ["--annotations", data / "activity_net.v1-3.min.json", "--out", tmp_path / "out"]
    words += ["--model", "tiny:llava_onevision", "--selector", "uniform", "--options", "all"]
    code, out, err = command(*words)
    assert code == 0 and "1 videos have no answer and count as wrong" in out, err
    broken.write_bytes(content)
    code, out, _ = command(*words)
    assert code == 0 and "no answer" not in out
