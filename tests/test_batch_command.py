"""``vtc batch`` and ``vtc batch select`` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

import vtc
from vtc.cli.row_progress import row_progress

QUESTIONS = ["Where is the square?", "Is it red?", "Who walks by?"]


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Two short videos and a broken one."""
    root = tmp_path_factory.mktemp("videos")
    for name, seconds in (("one.mp4", 5), ("two.mp4", 3)):
        vtc.testing.write_video(root / name, vtc.testing.moving_squares(seconds=seconds))
    (root / "broken.mp4").write_bytes(b"no video")
    vtc.testing.save_tiny_clip(root / "clip")
    return root


@pytest.fixture
def batch(command, videos, tmp_path, monkeypatch):
    """Run a batch over seven rows in an empty folder; gives exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    names = ["one.mp4", "broken.mp4", "two.mp4"]
    rows = [
        {"id": f"{name[:3]}-{number}", "video": name, "question": text}
        for number, text in enumerate(QUESTIONS)
        for name in names[: 3 - number % 2]
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ["--video-root", videos, "--keyframes", 2]

    def run(*more, kind=None):
        start = ["batch", *([kind] if kind else []), "rows.jsonl", "--out", "out.jsonl"]
        model = ["--encoder", videos / "clip"]
        if kind is None:
            model += ["--model", "tiny:llava_onevision", "--max-new-tokens", 3]
        return command(*start, *words, *model, *more)

    run.rows = rows
    run.out = tmp_path / "out.jsonl"
    return run


def lines(file):
    return {line["id"]: line for line in map(json.loads, file.read_text().splitlines())}


def test_each_row_gets_a_line_and_a_broken_video_an_error(batch):
    code, out, _ = batch()
    assert code == 0
    assert out == "8 of 8 rows are in out.jsonl, 3 with an error (retry them with --retry-errors)\n"
    written = lines(batch.out)
    assert len(batch.out.read_text().splitlines()) == len(written) == len(batch.rows)
    for row in batch.rows:
        line = written[row["id"]]
        assert {name: line[name] for name in row} == row
        assert list(line) == ["id", "video", "question", "answer", "error", "report"]
        if row["video"] == "broken.mp4":
            assert line["answer"] is None and line["report"] is None
            assert line["error"].startswith("VideoError: broken.mp4")
        else:
            assert isinstance(line["answer"], str) and line["error"] is None
            assert line["report"]["videos"][0]["query"] == row["question"]
            assert len(line["report"]["videos"][0]["keyframes"]) == 2
            assert "relevance" not in line["report"]["videos"][0]


def test_questions_about_one_video_share_a_pass(batch, monkeypatch):
    asked = []
    ask = vtc.ask
    monkeypatch.setattr(
        vtc, "ask", lambda *a, **k: asked.append((a[2].name, a[3])) or ask(*a, **k), raising=False
    )
    assert batch("--questions-at-once", 2)[0] == 0
    assert asked == [
        ("one.mp4", QUESTIONS[:2]),
        ("one.mp4", QUESTIONS[2:]),
        ("two.mp4", [QUESTIONS[0], QUESTIONS[2]]),
    ]


def test_a_question_that_fails_does_not_take_the_others_with_it(batch, monkeypatch):
    ask = vtc.ask

    def fail(model, processor, source, questions, **settings):
        if QUESTIONS[1] in questions:
            raise RuntimeError("out of memory")
        return ask(model, processor, source, questions, **settings)

    monkeypatch.setattr(vtc, "ask", fail, raising=False)
    assert batch()[0] == 0
    written = lines(batch.out)
    assert written["one-1"]["error"] == "RuntimeError: out of memory"
    assert written["one-0"]["error"] is written["one-2"]["error"] is None


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_cleanly_and_the_same_command_resumes(batch, monkeypatch, end, code):
    ask = vtc.ask
    calls = []

    def interrupted(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), end)
        return ask(*arguments, **settings)

    monkeypatch.setattr(vtc, "ask", interrupted, raising=False)
    ended, out, err = batch()
    assert (ended, err) == (code, "")
    assert "6 of 8 rows" in out
    assert "2 rows missing; run the same command to resume" in out
    before = batch.out.read_text()
    code, out, _ = batch("--json")
    assert code == 0 and len(calls) == 3
    summary = json.loads(out)
    assert {**summary, "seconds": 0} == {
        "out": "out.jsonl",
        "rows": 8,
        "answered": 5,
        "errors": 3,
        "missing": 0,
        "new": 2,
        "seconds": 0,
    }
    assert batch.out.read_text().startswith(before)


def test_nothing_is_imported_when_nothing_is_missing(batch, videos):
    batch(kind="select")
    code = (
        "import sys, vtc.cli\n"
        "try: vtc.cli.main()\n"
        "finally: print(*sorted({'torch', 'transformers', 'av'} & {*sys.modules}), file=sys.stderr)"
    )
    words = ["batch", "select", "rows.jsonl", "--out", "out.jsonl", "--keyframes", "2"]
    words += ["--encoder", str(videos / "clip"), "--video-root", str(videos)]
    run = [sys.executable, "-c", code, *words]
    ended = subprocess.run(run, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "\n")
    assert ended.stdout.startswith("8 of 8 rows")
    batch.out.unlink()  # the check can fail
    run += ["--selector", "dkss"]
    assert "torch" in subprocess.run(run, capture_output=True, text=True).stderr


def test_errors_are_asked_again_when_the_user_says_so(batch):
    batch(kind="select")
    before = lines(batch.out)
    assert json.loads(batch("--json", kind="select")[1])["new"] == 0
    assert json.loads(batch("--json", "--retry-errors", kind="select")[1])["new"] == 3
    assert lines(batch.out) == before


def test_select_writes_keyframes_with_their_times(batch, command, videos):
    code, _, err = batch("--all-frames", kind="select")
    assert code == 0, err
    written = lines(batch.out)
    line = written["one-1"]
    names = ["id", "video", "question", "keyframes", "timestamps", "relevance", "error", "report"]
    assert list(line) == names
    words = ("--encoder", videos / "clip", "--keyframes", 2, "--json")
    alone = json.loads(command("select", videos / "one.mp4", line["question"], *words)[1])
    for name in ("keyframes", "timestamps", "relevance"):
        assert line[name] == alone[name]
    assert line["report"]["frames"] == alone["frames"] == 5
    assert written["bro-0"]["keyframes"] is None


def test_keyframes_of_questions_that_share_a_pass_are_those_of_one_at_a_time(batch):
    batch("-s", "similarity_threshold=1.0", kind="select")
    together = lines(batch.out)
    batch.out.unlink()
    batch("-s", "similarity_threshold=1.0", "--questions-at-once", 1, kind="select")
    alone = lines(batch.out)
    assert together.keys() == alone.keys()
    assert all(together[id]["keyframes"] == alone[id]["keyframes"] for id in alone)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fps", 2), "was written with fps=1.0, not fps=2.0"),
        (("--video-root", "elsewhere", "--retry-errors"), "none of the videos exists"),
    ],
)
def test_a_wrong_second_run_is_refused(batch, words, message):
    batch(kind="select")
    code, _, err = batch(*words, kind="select")
    assert code == 1 and message in err


def test_wrong_options_are_refused_before_any_work(batch, command):
    for words, message in (
        (("--out", "rows.jsonl"), "another file than the rows"),
        (("--selector", "dkss"), "unknown selector 'dkss'"),
        (("--out", "rows.jsonl/x.jsonl"), "rows.jsonl"),
    ):
        code, _, err = batch(*words, kind="select")
        assert code == 1 and message in err, err
        assert len(err.splitlines()) == 1
    code, _, err = command("batch")
    assert code == 2 and "Missing argument" in err


def test_workers_answer_as_one_process_does(batch):
    words = ("--selector", "uniform")
    batch(*words, kind="select")
    alone = lines(batch.out)
    batch.out.unlink()
    code, _, err = batch(*words, "--workers", 1, kind="select")
    assert code == 0, err
    together = lines(batch.out)
    for line in (*alone.values(), *together.values()):
        if line["report"]:
            line["report"]["stages"] = line["report"]["stages"].keys()
    assert together == alone


def test_a_file_takes_a_line_of_progress_a_minute(capsys, monkeypatch):
    times = iter([0.0, 30.0, 60.0, 90.0])
    monkeypatch.setattr("vtc.cli.row_progress.monotonic", lambda: next(times))
    with row_progress(100) as show:
        for done in (10, 20, 40, 60):
            show(done)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("40 of 100 rows, 30 rows/min, ends about ")


def test_shards_fill_their_files_and_the_joined_file_is_complete(batch):
    for number in (1, 2):
        words = ("--out", f"out-{number}.jsonl", "--shard", f"{number}/2", "--selector", "uniform")
        code, _, err = batch(*words, kind="select")
        assert code == 0, err
    one, two = (batch.out.with_name(f"out-{number}.jsonl").read_text() for number in (1, 2))
    assert len(one.splitlines()) == 5 and len(two.splitlines()) == 3
    batch.out.write_text(one + two)
    summary = json.loads(batch("--selector", "uniform", "--json", kind="select")[1])
    assert (summary["rows"], summary["new"], summary["missing"]) == (8, 0, 0)
