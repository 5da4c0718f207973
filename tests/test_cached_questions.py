"""The second question about a file decodes and computes only what is not in the cache."""

from __future__ import annotations

import pytest
import torch

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare
from vtc.pipeline.selecting import select_video
from vtc.video.pyav_reader import PyAVReader

FRAMES, KEYFRAMES = 12, 3


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=FRAMES))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """Collect how many frames each pass decodes."""
    counts = []
    read = PyAVReader.read

    def counting(self, positions):
        for picture in read(self, positions):
            counts.append(picture.position)
            yield picture

    monkeypatch.setattr(PyAVReader, "read", counting)
    return counts


def wrapped(model, processor, merger="dfm", family_encoder=None):
    selector = vtc.selector("dks", keyframes=KEYFRAMES, similarity_threshold=1.0)
    encoder = family_encoder or vtc.testing.tiny_encoder()
    return vtc.wrap(model, selector, merger, processor=processor, encoder=encoder)


def tokens(model, processor, sources, questions):
    """The features that the language model gets, and the reports of the videos."""
    inputs = vtc.prepare_inputs(model, processor, sources, questions)
    with torch.no_grad():
        prepared = prepare(Call(model, model.vtc, inputs, generating=True))
    features = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    return features, prepared.report


def indices(video):
    return [frame.index for frame in video.keyframes]


@pytest.mark.parametrize(("merger", "second"), [("dfm", FRAMES), ("drop", KEYFRAMES)])
def test_a_second_question_decodes_only_what_the_tower_needs(
    model, processor, file, tmp_path, decoded, merger, second
):
    wrapped(model, processor, merger)
    plain, report = tokens(model, processor, vtc.VideoSource(file), "Where is it?")
    decoded.clear()
    for count, hit in ((FRAMES, False), (second, True)):
        source = vtc.VideoSource(file, cache=tmp_path)
        features, own = tokens(model, processor, source, "Where is it?")
        assert torch.equal(features[0], plain[0])
        assert indices(own.videos[0]) == indices(report.videos[0])
        assert own.videos[0].relevance == report.videos[0].relevance
        assert [use.hit for use in own.videos[0].cache] == [hit]
        assert len(decoded) == own.videos[0].decoded == count
        assert ("frame encoder" in own.stages) is not hit
        decoded.clear()


def test_another_question_is_ranked_anew(model, processor, file, tmp_path):
    wrapped(model, processor)
    for question in ("Where is it?", "Who walks by, and when?"):
        plain = tokens(model, processor, vtc.VideoSource(file), question)
        for _ in range(2):
            cached = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), question)
            assert torch.equal(cached[0][0], plain[0][0])
            assert cached[1].videos[0].relevance == plain[1].videos[0].relevance


def test_a_batch_decodes_only_videos_that_are_not_cached(model, processor, file, tmp_path, decoded):
    wrapped(model, processor, "drop")
    other = tmp_path / "other.mp4"
    vtc.testing.write_video(other, vtc.testing.moving_squares(seconds=9))
    tokens(model, processor, vtc.VideoSource(file, cache=tmp_path / "c"), "Where?")
    decoded.clear()
    sources = [vtc.VideoSource(path, cache=tmp_path / "c") for path in (other, file, other)]
    sources[2] = sources[0]
    _, report = tokens(model, processor, sources, ["Where?"] * 3)
    assert [video.cache[0].hit for video in report.videos] == [False, True, False]
    assert len(decoded) == 9 + KEYFRAMES
    assert str(report).count("read from the cache") == 1
    assert "squares.mp4: frame embeddings read from the cache" in str(report)


def test_select_and_ask_share_the_cache(model, processor, file, tmp_path, decoded):
    wrapped(model, processor, "drop")
    spec = {"name": "dks", "keyframes": KEYFRAMES}
    lazy = model.vtc.encoder
    select = select_video(vtc.VideoSource(file, cache=tmp_path), "Where?", spec, lazy)
    assert not select.videos[0].cache[0].hit
    decoded.clear()
    answer = vtc.ask(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    assert answer.report.videos[0].cache[0].hit
    again = select_video(vtc.VideoSource(file, cache=tmp_path), "Where?", spec, lazy)
    assert again.videos[0].cache[0].hit
    assert again.videos[0].relevance == select.videos[0].relevance
    assert len(decoded) == KEYFRAMES


def test_slices_of_two_frames_have_entries_of_their_own(file, tmp_path, decoded):
    model, processor = vtc.testing.tiny("qwen2_vl")
    wrapped(model, processor, "drop")
    plain, _ = tokens(model, processor, vtc.VideoSource(file), "Where?")
    for hit in (False, True):
        features, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
        assert report.videos[0].cache[0].hit is hit
        assert torch.equal(features[0], plain[0])


def test_a_selector_without_embeddings_looks_nothing_up(model, processor, file, tmp_path):
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), processor=processor)
    _, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    assert report.videos[0].cache == ()
    assert not (tmp_path / "entries").exists()


def test_losses_are_reported_for_cached_videos_too(clips, tmp_path, model, processor):
    wrapped(model, processor, "drop")
    path = clips / "odd" / "trunc_faststart.mp4"
    reports = [
        tokens(model, processor, vtc.VideoSource(path, cache=tmp_path), "Where?")[1]
        for _ in range(2)
    ]
    assert reports[1].videos[0].cache[0].hit
    assert reports[0].warnings and reports[0].warnings == reports[1].warnings
