"""Batches as tasks of a local Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from batch_jobs import EchoJob, question

import vtc
from vtc.batch.cluster import LOCAL, Resources, answer_on_cluster, connect
from vtc.batch.rows import group_rows
from vtc.batch.workers import LoadingError


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"video-token-compression\[cluster\]"):
        connect(LOCAL)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two processors on 127.0.0.1."""
    ray = pytest.importorskip("ray", reason="needs the extra cluster")
    tests = str(Path(__file__).parent)  # its processes find the jobs there
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, sys.path)]))
        ray.init(
            num_cpus=2,
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            log_to_driver=False,
            _system_config={"task_oom_retries": 1},
        )
        yield ray
        ray.shutdown()


def answer(rows, job, most=4):
    groups = group_rows(rows, most)
    answered = answer_on_cluster(groups, job, "auto", Resources())
    return [line for lines in answered for line in lines]


@pytest.mark.slow
def test_all_rows_are_answered_once(cluster, tmp_path):
    rows = [question(number, f"{number // 4}.mp4") for number in range(40)]
    lines = answer(rows, EchoJob(root=tmp_path), 3)
    assert sorted(line["id"] for line in lines) == list(range(40))
    assert (tmp_path / "asked").read_text().count("\n") == 40


@pytest.mark.slow
def test_a_task_whose_process_dies_once_is_run_again(cluster, tmp_path):
    rows = [question(0, "a.mp4", "die once"), *(question(n, "b.mp4") for n in range(1, 4))]
    lines = answer(rows, EchoJob(root=tmp_path), 1)
    assert sorted(line["id"] for line in lines) == [0, 1, 2, 3]
    assert {line["error"] for line in lines} == {None}
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_row_that_kills_its_processes_is_set_aside_and_the_others_are_answered(cluster, tmp_path):
    texts = ["What?", "die", "Why?"]
    rows = [question(number, "a.mp4", text) for number, text in enumerate(texts)]
    lines = {line["id"]: line for line in answer(rows, EchoJob(root=tmp_path))}
    assert len(lines) == 3
    assert "set aside, as 2 worker processes died" in lines[1]["error"]
    assert all(lines[id]["answer"] == texts[id].upper() for id in (0, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "message"), [("no such model", "^no such model$"), ("dies", "first 3 tasks died")]
)
def test_a_model_that_cannot_be_loaded_ends_the_run(cluster, tmp_path, broken, message):
    rows = [question(number, f"{number}.mp4") for number in range(6)]
    with pytest.raises(LoadingError, match=message):
        answer(rows, EchoJob(root=tmp_path, broken=broken))
    assert len(answer([question(0)], EchoJob(root=tmp_path))) == 1  # the cluster still works


@pytest.mark.slow
def test_the_command_answers_with_a_ray_of_its_own(tmp_path):
    pytest.importorskip("ray", reason="needs the extra cluster")
    vtc.testing.write_video(tmp_path / "a.mp4", vtc.testing.moving_squares(seconds=3))
    rows = [{"id": n, "video": f"{name}.mp4", "question": "Why?"} for n, name in enumerate("aab")]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = (tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl", "--video-root", tmp_path)
    words = ("--selector", "uniform", "--keyframes", 2, "--ray", "local", "--json")

    def run(*more: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vtc.cli", "batch", "select", *files, *words, *more]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["answered"], summary["errors"], summary["missing"]) == (2, 1, 0)
    assert "expected --workers or --ray" in run("--workers", 1).stderr
