"""Selectors that score few frames: only those are decoded and embedded, with the same result."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc
from vtc.pipeline.report import Recorder, Report
from vtc.pipeline.selecting import select_video
from vtc.pipeline.selection import select_for_queries

SECONDS = 40


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    frames = vtc.testing.moving_squares(seconds=SECONDS, fps=2, size=(60, 80))
    vtc.testing.write_video(path, frames, fps=2)
    return path


def focus(**options):
    return vtc.selector("focus", **{"keyframes": 4, "arm_seconds": 10.0, "zoom": 0.25, **options})


def keyframes(report):
    return [frame.index for frame in report.videos[0].keyframes]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl"])
def test_only_scored_frames_are_decoded_and_embedded(family, file, decoded, tmp_path):
    """Qwen's slices are two frames, of which the encoder sees the first."""
    model, processor = vtc.testing.tiny(family)
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, focus(arm_seconds=10.0), "drop", processor=processor, encoder=encoder)
    first = vtc.ask(model, processor, file, "Where is the red square?", max_new_tokens=1).report
    each = 1 if family == "llava_onevision" else 2
    # In ten seconds of Qwen-VL are five slices.
    scored = {1: 4 * 3 + 7, 2: 4 * 3 + 2}[each]
    assert first.stages["frame encoder"].bytes == scored * 16 * 4  # float32 of width 16
    assert len(decoded) == scored + 4 * each
    cached = vtc.VideoSource(file, cache=tmp_path)
    vtc.wrap(vtc.unwrap(model), "dks", "drop", processor=processor, encoder=encoder)
    vtc.ask(model, processor, cached, "Where is the red square?", max_new_tokens=1)
    model.vtc.selector = focus()
    decoded.clear()
    cached = vtc.VideoSource(file, cache=tmp_path)
    second = vtc.ask(model, processor, cached, "Where is the red square?", max_new_tokens=1).report
    assert keyframes(second) == keyframes(first)
    assert len(decoded) == 4 * each and "frame encoder" not in second.stages


def test_questions_share_the_frames_that_were_scored(file, decoded):
    model, processor = vtc.testing.tiny()
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, focus(zoom=0.0), "drop", processor=processor, encoder=encoder)
    questions = ["Where is the red square?", "What is blue?"]
    answers = vtc.ask(model, processor, file, questions, max_new_tokens=1)
    assert answers[0].report.stages["frame encoder"].bytes == 4 * 3 * 16 * 4
    alone = [vtc.ask(model, processor, file, one, max_new_tokens=1) for one in questions]
    assert list(map(keyframes, (one.report for one in answers))) == list(
        map(keyframes, (one.report for one in alone))
    )


def test_a_processors_tensors_and_vtc_select_are_scored_lazily_too(file, decoded):
    model, processor = vtc.testing.tiny()
    encoder = vtc.testing.tiny_encoder()
    vtc.wrap(model, focus(), "drop", processor=processor, encoder=encoder)
    frames = vtc.VideoSource(file).frames(range(SECONDS))
    inputs = vtc.testing.stock_inputs(processor, [frames], ["Where is the red square?"])
    with torch.no_grad():
        model(**inputs)
    report = vtc.last_report(model)
    assert report.stages["frame encoder"].bytes == (4 * 3 + 7) * 16 * 4
    decoded.clear()
    spec = {"name": "focus", "keyframes": 4, "arm_seconds": 10.0}
    chosen = select_video(vtc.VideoSource(file), "Where is the red square?", spec, encoder)
    assert len(decoded) == 4 * 3 + 7 and len(keyframes(chosen)) == 4
    assert all(math.isfinite(one) for one in chosen.videos[0].relevance)


def test_a_question_is_needed():
    recorder = Recorder(Report(selector={}, merger={}))
    arguments = (focus(), vtc.testing.tiny_encoder(), [], 9, None, [None], recorder, "focus")
    with pytest.raises(ValueError, match="selector 'focus' needs a query"):
        select_for_queries(*arguments, frames_of=lambda numbers: [])


def search(relevance, times=None, **options):
    """The selection, and the frames that were scored, in order."""
    asked = []

    def score(frames):
        asked.append(frames.tolist())
        return relevance[frames]

    return focus(**options).search(score, len(relevance), times), asked


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 200), st.integers(1, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99)
)
def test_as_many_keyframes_as_asked_for(count, keep, zoom, best, seed):
    relevance = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    options = {"keyframes": keep, "zoom": zoom, "best_share": best, "seed": seed}
    selection, asked = search(relevance, **options)
    frames = selection.keyframes.tolist()
    assert frames == sorted(set(frames)) and len(frames) == min(count, keep)
    scored = [frame for frames in asked for frame in frames]
    assert len(scored) == len(set(scored)) <= count and len(asked) <= 2
    if scored:
        assert torch.equal(selection.relevance[scored], relevance[scored])


def test_the_arms_with_the_highest_bound_are_scored_closely():
    """Arm 2 is the most relevant; arm 5 varies, so that its bound is higher."""
    relevance = torch.full((80,), 0.1)
    relevance[20:30] = 0.9
    _, asked = search(relevance, zoom=0.125)
    assert [len(frames) for frames in asked] == [8 * 3, 7]
    assert set(asked[1]) <= set(range(20, 30))
    relevance[50:60] = torch.tensor([0.0, 1.0] * 5)
    numbers = math.log(24)
    bounds = []
    for arm in range(8):
        own = [float(relevance[n]) for n in asked[0] if n // 10 == arm]
        mean = sum(own) / 3
        variance = sum((one - mean) ** 2 for one in own) / 3
        bounds.append(mean + math.sqrt(2 * numbers * variance / 3) + 3 * numbers / 3)
    _, asked = search(relevance, zoom=0.125)
    (best,) = sorted(range(8), key=lambda arm: -bounds[arm])[:1]
    assert best == 5 and {n // 10 for n in asked[1]} == {best}


def test_the_best_scores_are_keyframes_and_the_others_come_from_good_arms():
    relevance = torch.linspace(0, 1, 160)
    selection, _ = search(relevance, keyframes=10, best_share=0.2, zoom=0.25)
    frames = selection.keyframes.tolist()
    assert {158, 159} <= set(frames)  # the best of 16 arms is scored once a second
    assert all(frame >= 120 for frame in frames)  # four arms are the best
    per_arm = [sum(frame // 10 == arm for frame in frames) for arm in range(12, 16)]
    assert per_arm == [2, 2, 2, 4]


def test_relevant_frames_are_drawn_more_often():
    relevance = torch.zeros(40)
    relevance[::2] = 0.1  # at 0.06 five times as likely
    counts = torch.zeros(40)
    for seed in range(60):
        selection, _ = search(relevance, zoom=1.0, best_share=0.0, seed=seed)
        counts[selection.keyframes] += 1
    assert 3.5 < counts[::2].sum() / counts[1::2].sum() < 8


def test_seconds_count_not_frames():
    """At 4 frames/s an arm of ten seconds has 40 frames, of which ten are scored closely."""
    times = torch.arange(160).double() / 4
    relevance = torch.zeros(160)
    relevance[40:80] = 0.9
    _, asked = search(relevance, times, zoom=0.25)
    assert [len(frames) for frames in asked][0] == 4 * 3
    assert 40 <= min(asked[1]) and max(asked[1]) < 80 and 7 <= len(asked[1]) <= 10
    assert all((frame - 40) % 4 == 0 for frame in asked[1])
