"""Worker processes: started anew when they die, ended with their parent."""

import os
import signal
import subprocess
import sys
import time

import pytest
from batch_jobs import EchoJob, question

from vtc.batch.rows import Group, group_rows
from vtc.batch.workers import LoadingError, answer_in_workers

PARENT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from batch_jobs import SleepJob, question
from vtc.batch.rows import group_rows
from vtc.batch.workers import answer_in_workers
if __name__ == "__main__":
    rows = [question(i, f"{i}.mp4") for i in range(9)]
    job = SleepJob(root=Path(sys.argv[1]))
    for lines in answer_in_workers(group_rows(rows, 4), job, 2):
        print(lines, flush=True)
"""


def test_all_rows_are_answered_once_by_several_workers(tmp_path):
    rows = [question(number, f"{number // 4}.mp4") for number in range(20)]
    job = EchoJob(root=tmp_path)
    lines = [line for each in answer_in_workers(group_rows(rows, 3), job, 2) for line in each]
    assert sorted(line["id"] for line in lines) == list(range(20))
    assert {line["answer"] for line in lines} == {"WHAT?"}


def test_a_row_that_kills_two_workers_is_set_aside_and_the_others_of_its_group_are_answered(
    tmp_path,
):
    texts = ["What?", "die", "Why?", "Where?", "Who?", "When?"]
    rows = [question(number, "a.mp4", text) for number, text in enumerate(texts)]
    answered = answer_in_workers([Group(tuple(rows))], EchoJob(root=tmp_path), 1)
    lines = {line["id"]: line for each in answered for line in each}
    assert len(lines) == 6
    assert lines[1]["answer"] is None
    assert "set aside, as 2 worker processes died" in lines[1]["error"]
    assert all(lines[id]["answer"] == texts[id].upper() for id in (0, 2, 3, 4, 5))


def test_a_row_whose_worker_dies_once_is_answered(tmp_path):
    rows = [question(0, "a.mp4", "die once"), *(question(n, "b.mp4") for n in range(1, 4))]
    answered = answer_in_workers(group_rows(rows, 1), EchoJob(root=tmp_path), 2)
    lines = [line for each in answered for line in each]
    assert sorted(line["id"] for line in lines) == [0, 1, 2, 3]
    assert {line["error"] for line in lines} == {None}


@pytest.mark.parametrize(
    ("broken", "message"),
    [("no such model", "^no such model$"), ("dies", "2 worker processes died while they loaded")],
)
def test_a_model_that_cannot_be_loaded_ends_the_run(tmp_path, broken, message):
    job = EchoJob(root=tmp_path, broken=broken)
    with pytest.raises(LoadingError, match=message):
        list(answer_in_workers([Group((question(0),))], job, 1))


def children(pid: int) -> set[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return set(map(int, listed.stdout.split()))


@pytest.mark.skipif(sys.platform != "linux", reason="needs ps of Linux")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, end):
    file = tmp_path / "parent.py"
    file.write_text(PARENT)
    command = [sys.executable, str(file), str(tmp_path), *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        try:
            parent.stdout.readline()  # so both work
            workers = children(parent.pid)
            assert len(workers) >= 2
            parent.send_signal(end)
            parent.wait(20)
        finally:
            parent.kill()
    for _ in range(100):
        if not any(os.path.exists(f"/proc/{pid}") for pid in workers):
            return
        time.sleep(0.1)
    pytest.fail("workers are left")
