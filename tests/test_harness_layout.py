"""Data folders of benchmarks: what is read, checked and written for lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vtc_recipes.evaluation.fakes import FAKE_OF, write_fake
from vtc_recipes.evaluation.harness.layout import (
    ROW,
    Question,
    interleave,
    prepare,
    read_benchmark,
)
from vtc_recipes.evaluation.harness.tasks import TASKS


@pytest.fixture(scope="module")
def fakes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fakes")
    for name in ("videomme", "mlvu_test", "lvbench", "mvbench", "longvideobench"):
        write_fake(name, folder)
    return folder


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder with the tasks of lmms-eval, empty."""
    for task in TASKS.values():
        for config in task.config.values():
            file = tmp_path / "installed" / config
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return tmp_path / "installed"


def benchmark(name: str, folder: Path, **options):
    return read_benchmark(name, TASKS[name], folder / FAKE_OF.get(name, name), **options)


def test_rows_are_written_with_a_link_to_the_videos(fakes, installed, tmp_path):
    names = prepare(benchmark("longvideobench_val_v", fakes), installed, tmp_path)
    assert names == ["vtc_longvideobench_val_v"]
    config = yaml.safe_load((tmp_path / "tasks" / f"{names[0]}.yaml").read_text())
    assert config["include"] == str(installed / "longvideobench/longvideobench_val_v.yaml")
    assert config["dataset_kwargs"] == {"cache_dir": "datasets/longvideobench", "video": True}
    rows = (Path(config["dataset_path"]) / "validation.jsonl").read_text().splitlines()
    assert [json.loads(row)[ROW] for row in rows] == [0, 1, 2, 3, 4]
    video = tmp_path / "hf_home/datasets/longvideobench/videos" / json.loads(rows[0])["video_path"]
    assert video.samefile(fakes / "longvideobench/videos/fake0.mp4")


def test_each_part_of_mvbench_is_a_task_with_its_own_folder_of_videos(fakes, installed, tmp_path):
    read = benchmark("mvbench", fakes)
    names = prepare(read, installed, tmp_path)
    assert len(names) == 20 and len(read.questions) == 20
    pictures = next(one for one in read.questions if one.part == "episodic_reasoning")
    assert pictures.video.is_dir()


@pytest.mark.parametrize(
    ("name", "count"), [("videomme", 4), ("mlvu_test", 6), ("lvbench", 4), ("mvbench", 3)]
)
def test_options_are_counted_for_the_chance_level(fakes, name, count):
    assert {TASKS[name].options(one.row) for one in benchmark(name, fakes).questions} == {count}


def test_options_that_are_not_there_do_not_count(fakes):
    questions = benchmark("longvideobench_val_v", fakes).questions
    assert [TASKS["longvideobench_val_v"].options(one.row) for one in questions] == [4, 5, 4, 5, 4]


def test_missing_videos_are_counted_or_left_out(tmp_path):
    data = write_fake("videomme", tmp_path)
    (data / "data/fake0.mp4").unlink()
    (data / "videos_chunked_01.zip").touch()
    message = r"1 videos are missing in .*data/fake0.mp4; .*--only-present; unpack .*chunked_01.zip"
    with pytest.raises(ValueError, match=message):
        benchmark("videomme", tmp_path)
    read = benchmark("videomme", tmp_path, only_present=True)
    assert [one.number for one in read.questions] == [2, 3, 4] and read.missing == 2
    (data / "data/fake2.mp4").rename(data / "data/fake2.mkv")
    assert len(benchmark("videomme", tmp_path, only_present=True).questions) == 3
    for file in (data / "data").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="4 videos are missing"):
        benchmark("videomme", tmp_path, only_present=True)


def test_a_limit_takes_the_first_questions(tmp_path):
    write_fake("videomme", tmp_path)
    read = benchmark("videomme", tmp_path, limit=2)
    assert [one.number for one in read.questions] == [0, 1] and read.total == 5


def test_a_wrong_folder_is_refused(fakes, tmp_path):
    with pytest.raises(ValueError, match="is not a folder; pass the folder of videomme as --data"):
        benchmark("videomme", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no annotations of lvbench; expected a file .*train"):
        read_benchmark("lvbench", TASKS["lvbench"], fakes / "videomme")
    message = "row 0 lacks video_name, task_type; expected the annotations of mlvu_dev"
    (tmp_path / "test.jsonl").write_text('{"question": "Why?", "answer": "A"}\n')
    with pytest.raises(ValueError, match=message):
        read_benchmark("mlvu_dev", TASKS["mlvu_dev"], tmp_path)
    (tmp_path / "test.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="test.parquet cannot be read"):
        read_benchmark("mlvu_dev", TASKS["mlvu_dev"], tmp_path)


def test_another_version_of_lmms_eval_is_refused(fakes, tmp_path):
    with pytest.raises(ValueError, match="has no task videomme/videomme.yaml; expected 0.7.3"):
        prepare(benchmark("videomme", fakes), tmp_path, tmp_path)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 5))
def test_questions_about_one_video_go_to_one_process(videos, ranks):
    questions = [Question("", n, Path(f"{video}.mp4"), {}) for n, video in enumerate(videos)]
    order = interleave(questions, ranks)
    assert sorted(one.number for one in order) == list(range(len(videos)))
    shares = {(one.video, place % ranks) for place, one in enumerate(order)}
    assert len(shares) <= len({*videos}) + ranks - 1


@pytest.mark.parametrize(
    ("task", "where"), [("egoschema", "validation-server"), ("videoevalpro", "OpenAI's API")]
)
def test_tasks_that_send_answers_elsewhere_are_refused(command, tmp_path, task, where):
    code, _, err = command("evaluate", task, "--data", tmp_path, "--out", tmp_path / "out")
    assert code == 1 and where in err and "--allow-posting" in err
    assert not (tmp_path / "out").exists()


def test_without_lmms_eval_the_command_says_how_to_install_it(command, tmp_path, monkeypatch):
    from vtc_recipes.evaluation.harness import running

    monkeypatch.setattr(running, "find_spec", lambda name: None)
    words = ["evaluate", "lvbench", "--data", tmp_path, "--out", tmp_path / "out"]
    code, _, err = command(*words)
    assert code == 1 and "make eval-env" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--selector", "dkss"], "unknown selector 'dkss'"),
        (["--keyframes", "0"], "expected keyframes to be"),
        (["--merger", "dfm", "-m", "temperatur=1"], "has no option 'temperatur'"),
        (["--processes", "2", "--device", "cuda:1"], "expected --device auto or cpu"),
        (["--controls", "unifrom"], "expected --controls to be all, none, or some of uniform"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(
    command, fakes, tmp_path, monkeypatch, words, message
):
    from vtc_recipes.evaluation.harness import running

    monkeypatch.setattr(running, "find_spec", lambda name: PackageSpec)
    data = ["--data", fakes / "videomme", "--out", tmp_path / "out", "--model", "shipped"]
    code, _, err = command("evaluate", "videomme", *data, *words)
    assert code == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_without_a_folder_the_results_go_to_one_named_after_the_benchmark(
    command, fakes, tmp_path, monkeypatch
):
    from vtc_recipes.evaluation.harness import evaluate, running

    def stop(work, progress):
        raise ValueError(f"results in {work.out}")

    monkeypatch.setattr(running, "find_spec", lambda name: PackageSpec)
    monkeypatch.setattr(evaluate.Evaluation, "run", stop)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "videomme", "--data", fakes / "videomme", "--model", "shipped"]
    code, _, err = command(*words)
    assert code == 1 and "results in runs/videomme" in err


class PackageSpec:
    submodule_search_locations = ("installed",)
