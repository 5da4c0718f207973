"""QVHighlights: hits counted by hand, chance levels, and the command on a fake data set."""

from __future__ import annotations

import errno
import itertools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc
from vtc.plugins import registry
from vtc_recipes.evaluation import qvhighlights
from vtc_recipes.evaluation.qvhighlights import (
    DEFINITIONS,
    Query,
    Ranker,
    chance,
    find_videos,
    read_queries,
    run,
    score_query,
    summarise,
)
from vtc_recipes.synthetic import random_video

ROW = {
    "qid": 7,
    "query": "A red star",
    "duration": 20,
    "vid": "abc_0.0_20.0",
    "relevant_windows": [[4, 12]],
    "relevant_clip_ids": [2, 3, 4, 5],
    "saliency_scores": [[1, 2, 2], [3, 3, 4], [4, 2, 4], [0, 1, 1]],
}
QUERY = Query(
    7, "A red star", "abc_0.0_20.0", (2, 3, 4, 5), ((1, 2, 2), (3, 3, 4), (4, 2, 4), (0, 1, 1))
)


def test_hits_are_those_counted_by_hand():
    assert QUERY.targets("peak") == {3, 4}  # both sum to 10
    assert QUERY.targets("very_good") == {3, 4}
    assert QUERY.targets("relevant") == {2, 3, 4, 5}
    seconds = [float(second) for second in range(20)]
    keyframes = {1: [5], 2: [5, 9], 5: [0, 1, 12, 13, 19]}
    record = score_query(QUERY, seconds, keyframes, np.random.default_rng(0))
    assert record["hit"] == {
        "peak@1": 0, "peak@2": 1, "peak@5": 0,
        "very_good@1": 0, "very_good@2": 1, "very_good@5": 0,
        "relevant@1": 1, "relevant@2": 1, "relevant@5": 0,
    }  # fmt: skip
    assert record["chance"]["peak@1"] == pytest.approx(4 / 20)
    assert record["chance"]["relevant@1"] == pytest.approx(8 / 20)
    assert record["chance"]["peak@2"] == pytest.approx(1 - 16 / 20 * 15 / 19)


def test_a_query_that_nobody_rated_very_good_is_never_hit():
    dull = Query(1, "q", "v", (0, 1), ((1, 3, 3), (3, 3, 3)))
    record = score_query(dull, [0.0, 1.0, 2.0], {1: [2]}, np.random.default_rng(0))
    assert record["hit"] == {"peak@1": 1, "very_good@1": 0, "relevant@1": 1}
    assert record["chance"]["very_good@1"] == record["simulated"]["very_good@1"] == 0


@given(frames=st.integers(1, 7), data=st.data())
def test_chance_counts_all_draws(frames, data):
    targets = data.draw(st.integers(0, frames))
    k = data.draw(st.integers(1, 8))
    draws = [*itertools.combinations(range(frames), min(k, frames))]
    hits = sum(any(number < targets for number in draw) for draw in draws)
    assert chance(frames, targets, k) == pytest.approx(hits / len(draws))


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_simulated_chance_agrees_with_the_closed_form(seed):
    rng = np.random.default_rng(seed)
    clips = tuple(sorted(rng.choice(30, 9, replace=False).tolist()))
    ratings = tuple(tuple(row) for row in rng.integers(0, 5, (9, 3)).tolist())
    query = Query(1, "q", "v", clips, ratings)
    seconds = np.arange(60.0).tolist()
    record = score_query(query, seconds, {k: [0] for k in (1, 5, 10, 30)}, rng)
    for name, share in record["chance"].items():
        deviation = (share * (1 - share) / 1000) ** 0.5
        assert abs(record["simulated"][name] - share) < 5 * deviation + 1e-9, name


def test_random_frames_hit_as_often_as_chance():
    rng, records = np.random.default_rng(0), []
    for number in range(400):
        clips = tuple(sorted(rng.choice(10, 3, replace=False).tolist()))
        ratings = tuple(tuple(row) for row in rng.integers(0, 5, (3, 3)).tolist())
        query = Query(number, "q", "v", clips, ratings)
        keyframes = {k: sorted(rng.choice(20, k, replace=False).tolist()) for k in (1, 5)}
        records.append(score_query(query, np.arange(20.0).tolist(), keyframes, rng))
    for name, row in summarise(records).items():
        low, high = row["interval"]
        width = high - low
        assert low - width / 2 < row["chance"] < high + width / 2, name


def test_annotations_are_read_and_every_bad_line_is_named(tmp_path):
    file = tmp_path / "val.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    assert read_queries(file) == [QUERY]
    short = {**ROW, "saliency_scores": [[1, 2, 3]]}
    lines = [json.dumps(ROW), "{", json.dumps(short), json.dumps({"qid": 1})]
    file.write_text("\n".join(lines))
    with pytest.raises(
        ValueError,
        match="(?s)line 2 is not valid JSON.*line 3.*of 4 .*got 1.*line 4: query is missing",
    ):
        read_queries(file)
    file.write_text("\n".join([json.dumps(ROW), "", json.dumps(ROW)]))
    with pytest.raises(ValueError, match="qid 7 appears 2 times"):
        read_queries(file)
    file.write_text("")
    with pytest.raises(ValueError, match="expected at least one query, got none"):
        read_queries(file)


def test_missing_videos_are_counted(tmp_path):
    with pytest.raises(ValueError, match="^1 of 1 videos are missing, such as .*abc_0.0_20.0.mp4"):
        find_videos([QUERY], tmp_path)


class RedEncoder:
    """Embeds how red a frame is; every text asks for red."""

    name, dim, notes = "red", 2, ()

    def __init__(self):
        self.frames = 0

    def encode_frames(self, frames):
        self.frames += len(frames)
        red, green, blue = torch.as_tensor(frames).float().unbind(-1)
        share = ((red > 180) & (green < 110) & (blue < 110)).float().mean((1, 2))
        angle = (20 * share).clamp(0, 1.5)
        return torch.stack([angle.sin(), angle.cos()], dim=-1)

    def encode_text(self, text):
        return torch.tensor([1.0, 0.0])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two videos of 20 s at two frames per second; the reddest clip is the highlight."""
    rows = []
    for seed in (3, 4):
        video = random_video(seed, 40, segments=8, size=64)
        file = tmp_path / f"v{seed}_0.0_20.0.mp4"
        video.write(file, fps=2)
        red = RedEncoder().encode_frames(vtc.VideoSource(file, fps=1).frames())[:, 0]
        clip = int(red.argmax()) // 2
        clips = sorted([clip, (clip + 4) % 10])
        ratings = [[4, 4, 4] if one == clip else [1, 1, 1] for one in clips]
        for qid in (seed, seed + 10):
            row = {**ROW, "qid": qid, "vid": f"v{seed}_0.0_20.0"}
            rows.append({**row, "relevant_clip_ids": clips, "saliency_scores": ratings})
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_reddest_frames_hit_and_queries_share_a_videos_embeddings(data):
    queries, encoder = read_queries(data / "val.jsonl"), RedEncoder()
    ranker = Ranker({"name": "query_guided"}, encoder, "cpu")
    shuffled = [queries[n] for n in (0, 2, 1, 3)]
    records, errors = run(shuffled, find_videos(queries, data), ranker)
    assert errors == []
    assert [record["qid"] for record in records] == [query.qid for query in shuffled]
    assert encoder.frames == 40  # each video once
    results = summarise(records)
    assert {name.split("@")[0] for name in results} == {*DEFINITIONS}
    assert results["peak@1"]["hit"] == results["very_good@1"]["hit"] == 1
    assert results["peak@1"]["chance"] == pytest.approx(2 / 20)
    assert results["relevant@30"]["chance"] == 1
    assert [results[f"peak@{k}"]["keyframes"] for k in (1, 5, 10, 30)] == [1, 5, 10, 20]


class Everything(vtc.FrameSelector):
    """Selects all frames."""

    def select(self, embeddings, query=None, timestamps=None):
        return vtc.Selection(torch.arange(len(embeddings)), None)


def test_a_selector_without_keyframes_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "spec_of", lambda part: {"name": "everything"})
    with pytest.raises(ValueError, match="to be one with the option 'keyframes', got 'everything'"):
        Ranker(Everything(), RedEncoder(), "cpu")


def test_the_command_prints_hits_beside_chance(data, command):
    words = ["evaluate", "qvhighlights", "--annotations", data / "val.jsonl", "--videos", data]
    words += ["--selector", "uniform"]
    code, out, err = command(*words)
    assert code == 0, err
    assert "uniform, 4 queries, %" in out and out.count("peak") == 4
    code, out, _ = command(*words, "--limit", "2", "--json")
    printed = json.loads(out)
    assert printed["queries"] == 2 and printed["results"]["relevant@30"]["hit"] == 1


def test_the_command_resumes_and_skips_videos_that_cannot_be_read(data, command):
    words = ["evaluate", "qvhighlights", "--annotations", data / "val.jsonl", "--videos", data]
    words += ["--selector", "uniform", "--out", data / "out"]
    video = data / "v4_0.0_20.0.mp4"
    content = video.read_bytes()
    video.write_bytes(b"no video")
    code, out, err = command(*words)
    assert code == 1 and "uniform, 2 queries, %" in out
    assert err.count("not scored: ") == 2 and "not scored: 4: " in err
    first = (data / "out/records.jsonl").read_text()
    video.unlink()
    code, _, err = command(*words)
    assert code == 1 and "1 of 2 videos are missing" in err and "--only-present" in err
    code, out, _ = command(*words, "--only-present")
    assert code == 0 and "2 queries without a video were skipped" in out
    video.write_bytes(content)
    code, out, _ = command(*words, "--json")
    assert code == 0 and json.loads(out)["queries"] == 4
    records = (data / "out/records.jsonl").read_text()
    assert records.startswith(first) and len(records.splitlines()) == 4
    assert json.loads((data / "out/results.json").read_text()) == json.loads(out)
    code, _, err = command(*words, "--selector", "random")
    assert code == 1 and "holds results with another selector" in err


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_keeps_its_records(data, command, monkeypatch, number, expected):
    rank = Ranker.rank

    def interrupt(self, file, text):
        if (data / "out/records.jsonl").exists():
            signal.raise_signal(number)
        return rank(self, file, text)

    monkeypatch.setattr(Ranker, "rank", interrupt)
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    words = ["evaluate", "qvhighlights", "--annotations", data / "val.jsonl", "--videos", data]
    words += ["--selector", "uniform", "--out", data / "out"]
    code, _, err = command(*words)
    signal.signal(signal.SIGINT, handlers[0])
    assert code == expected and len(err.strip().splitlines()) == 1
    assert f"interrupted; the same command resumes the run in {data / 'out'}" in err
    assert signal.getsignal(signal.SIGTERM) is handlers[1]
    assert len((data / "out/records.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_is_reported_in_one_line(data, command, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(qvhighlights, "append_lines", full)
    words = ["evaluate", "qvhighlights", "--annotations", data / "val.jsonl", "--videos", data]
    code, _, err = command(*words, "--selector", "uniform", "--out", data / "out")
    assert code == 1
    expected = f"vtc: error: No space left on device for {data / 'out'}; free some, and the same"
    assert err.strip().splitlines()[-1].startswith(expected)
