"""An answer is printed while it is written; the report says how long it took and what is far."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vtc
from vtc.cli import streaming
from vtc.pipeline.report import Keyframe, VideoReport

QUESTION = "Where is the square?"


@pytest.fixture(scope="module")
def words(tmp_path_factory, clip_folder):
    folder = tmp_path_factory.mktemp("stream")
    model, processor = vtc.testing.tiny("llava_onevision")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    video = vtc.testing.write_video(
        folder / "video.mp4", vtc.testing.moving_squares(seconds=4), fps=10
    )
    basics = ("--model", folder, "--encoder", clip_folder, "--max-new-tokens", 6)
    return "ask", video or folder / "video.mp4", QUESTION, *basics


@pytest.fixture
def pieces(monkeypatch):
    """The pieces of text that were printed one by one."""
    printed: list[str] = []
    real = streaming.AnswerStream.on_finalized_text

    def note(self, text, stream_end=False):
        printed.append(text)
        real(self, text, stream_end)

    monkeypatch.setattr(streaming.AnswerStream, "on_finalized_text", note)
    return printed


def test_the_answer_is_printed_piece_by_piece_below_the_report(command, words, pieces):
    code, whole, _ = command(*words)
    assert code == 0 and not pieces  # stdout is no terminal
    code, out, err = command(*words, "--stream", "--page", words[1].parent / "page.html")
    assert code == 0 and len(pieces) > 1
    facts, _, answer = out.partition("\n\n")
    assert answer.strip() == whole.partition("\n\n")[2].strip() != ""
    assert "keyframes" in facts and "loading" in facts and "total" not in facts
    assert "seconds: language model" in err and "total" in err and "page: " in err
    assert (words[1].parent / "page.html").is_file()


def test_a_terminal_streams_unless_told_otherwise(command, words, pieces, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    command(*words, "--no-stream")
    command(*words, "--json")
    command(*words, "And the circle?")
    command(*words, "--num-beams", 2)
    assert pieces == []
    command(*words)
    assert len(pieces) > 1


@pytest.mark.parametrize("more", [("--json",), ("And the circle?",)])
def test_what_cannot_stream_is_refused(command, words, more):
    code, out, err = command(*words, *more, "--stream")
    assert code == 1 and "--stream with one question and without --json" in err and not out


def test_the_report_holds_total_seconds_and_the_uncovered_share(command, words):
    _, out, _ = command(*words, "--json")
    result = json.loads(out)
    report, seconds = result["report"], result["seconds"]
    stages = sum(stage["seconds"] for stage in report["stages"].values())
    assert stages < report["total_seconds"] < seconds["total"] - seconds["loading"] + 0.1
    assert report["videos"][0]["uncovered"] == 0.0


def slow_share(times, keyframes, near):
    """The share by looking at very many moments, one by one."""
    step = (times[-1] - times[0]) / (len(times) - 1)
    moments = np.linspace(times[0], times[-1] + step, 20_001)
    return float(
        np.mean([min((abs(m - k) for k in keyframes), default=1e9) > near for m in moments])
    )


@given(
    st.integers(2, 60),
    st.floats(0.1, 20),
    st.floats(0, 100),
    st.sets(st.integers(0, 59), max_size=6),
)
def test_the_uncovered_share_is_that_of_very_many_moments(frames, step, first, numbers):
    times = tuple(first + step * n for n in range(frames))
    keyframes = tuple(Keyframe(n, times[n], None) for n in sorted(numbers) if n < frames)
    report = VideoReport("talk.mp4", frames, keyframes, 1, 1, None, timestamps=times)
    expected = slow_share(times, [k.timestamp for k in keyframes], report.near)
    assert report.uncovered == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("times", "keyframes", "share"),
    [
        (None, (), None),
        ((), (), None),
        ((5.0,), (Keyframe(0, 5.0, None),), 0.0),
        ((5.0,), (), 1.0),
        ((0.0, 50.0), (Keyframe(0, 0.0, None),), 0.9),
        ((0.0, 50.0), (), 1.0),
    ],
)
def test_the_uncovered_share_of_odd_videos(times, keyframes, share):
    report = VideoReport("talk.mp4", 2, keyframes, 1, 1, None, timestamps=times)
    assert report.uncovered == (None if share is None else pytest.approx(share))
