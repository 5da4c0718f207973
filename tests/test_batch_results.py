"""Files of results: resumed after any end, one writer, no line of other rows or settings."""

import json
import subprocess
import sys

import pytest
from batch_jobs import EchoJob, question

from vtc.batch.results import open_results
from vtc.batch.rows import group_rows
from vtc.batch.running import Run, answer_here

CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from batch_jobs import EchoJob, question
from vtc.batch.results import open_results
from vtc.batch.rows import group_rows
from vtc.batch.running import Run, answer_here
folder = Path(sys.argv[1])
rows = [question(f"{i}", f"{i // 3}.mp4", sys.argv[2] if i == 7 else "What?") for i in range(12)]
with open_results(folder / "out.jsonl") as results:
    run = Run(rows, results)
    job = EchoJob(root=folder, out=results.path)
    run.write(answer_here(group_rows(run.missing, 2), job), print)
    print(run.summary())
"""


def line(id, error=None, **fields):
    one = question(id)
    start = {"id": id, "video": one.video, "question": one.question}
    return {**start, "answer": "yes", "error": error, "report": None, **fields}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "deep" / "out.jsonl"


def fill(out, *lines):
    with open_results(out) as results:
        for one in lines:
            results.append(one)


def read(out):
    return [json.loads(text) for text in out.read_text().splitlines()]


@pytest.mark.parametrize("end", ["die once", "die in line"])
def test_a_killed_run_resumes_and_answers_no_row_twice(tmp_path, end):
    command = [sys.executable, "-c", CHILD, str(tmp_path), end, *sys.path]
    assert subprocess.run(command, capture_output=True).returncode == -9
    before = read(tmp_path / "out.jsonl") if end == "die once" else None
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    lines = read(tmp_path / "out.jsonl")
    assert sorted(int(each["id"]) for each in lines) == list(range(12))
    assert before is None or lines[: len(before)] == before
    asked = (tmp_path / "asked").read_text().split()
    repeated = {id for id in asked if asked.count(id) > 1}
    assert repeated <= {"6"}  # which shares the video in progress


@pytest.mark.parametrize("torn", ['{"id": "b", "video', "{", '{"id": "b"', "\0\0\0\0"])
def test_a_torn_last_line_is_cut_off(out, torn):
    fill(out, line("a"))
    with out.open("a") as file:
        file.write(torn)
    fill(out, line("b"))
    assert [each["id"] for each in read(out)] == ["a", "b"]


@pytest.mark.parametrize("content", ["notes without end", 'a\n{"id": 3'])
def test_a_file_of_something_else_is_refused_and_kept(out, content):
    out.parent.mkdir()
    out.write_text(content)
    with pytest.raises(ValueError, match="give another --out"), open_results(out):
        pass
    assert out.read_text() == content


def test_broken_lines_and_repeated_ids_are_named_at_once(out):
    fill(out, line("a"), line("a"))
    out.write_text(out.read_text() + '{"id": "b"}\nx\n')
    with pytest.raises(ValueError, match="line 2 repeats id 'a' of line 1") as caught:
        with open_results(out):
            pass
    assert "line 3.error is missing" in str(caught.value)
    assert "line 4 is not valid JSON" in str(caught.value)


def test_lines_of_other_rows_are_refused(out):
    fill(out, line("a"), line("b"), line("c", question="Else?"))
    rows = [question("a"), question("c")]
    with open_results(out) as results, pytest.raises(ValueError, match="'b' is not in") as caught:
        results.check_rows(rows)
    assert "id 'c' has another video or question" in str(caught.value)
    assert "'a'" not in str(caught.value)


def test_other_settings_are_refused(out):
    with open_results(out) as results:
        results.check_settings({"fps": 1.0, "model": "x", "pair": (1, 2)})
        results.check_settings({"fps": 2.0})  # nothing is answered yet
        results.append(line("a"))
        with pytest.raises(ValueError, match="with fps=2.0, model=None, not fps=3.0, model='y'"):
            results.check_settings({"fps": 3.0, "model": "y"})
        results.check_settings({"fps": 2.0})


def test_errors_are_removed_to_be_asked_again(out):
    fill(out, line("a"), line("b", error="broken"), line("c"))
    with open_results(out) as results:
        assert results.remove_errors() == 1
        assert results.ids == {"a", "c"}
    assert [each["id"] for each in read(out)] == ["a", "c"]


def test_a_second_writer_is_refused(out):
    with open_results(out):
        code = (
            "import sys; from pathlib import Path; from vtc.batch.results import open_results\n"
            "with open_results(Path(sys.argv[1])): pass"
        )
        command = [sys.executable, "-c", code, str(out)]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert "another run is writing to" in ended.stderr
    assert subprocess.run(command).returncode == 0


def test_the_summary_counts_what_the_file_holds(out, tmp_path):
    rows = [question(each) for each in "abcd"]
    with open_results(out) as results:
        results.append(line("a", error="broken"))
        run = Run(rows, results)
        job = EchoJob(root=tmp_path)
        seen = []
        run.write(answer_here(group_rows(run.missing[:2], 4), job), seen.append)
        summary = run.summary()
    assert seen == [1, 2, 3]
    assert (summary.rows, summary.answered, summary.errors) == (4, 2, 1)
    assert (summary.missing, summary.new) == (1, 2)
