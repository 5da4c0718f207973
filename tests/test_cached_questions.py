"""The second question about a file decodes and computes only what is not in the cache."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.locate import locate_videos
from vtc.pipeline.prepare import prepare
from vtc.pipeline.selecting import select_video
from vtc.pipeline.video_store import VideoStore

FRAMES, KEYFRAMES = 12, 3


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=FRAMES))
    return path


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


@pytest.fixture(params=["shared", "uniform"])
def with_patches(request, model, processor):
    """A model that merges the frame encoder's patches; the selector embeds frames, or does not."""
    wrapped(model, processor)
    if request.param == "uniform":
        model.vtc.selector = vtc.selector("uniform", keyframes=KEYFRAMES)
    with pytest.warns(UserWarning, match="untrained"):
        model.vtc.merge_encoder_patches()
    return model


def test_with_encoder_patches_a_second_question_decodes_the_keyframes_alone(
    with_patches, processor, file, tmp_path, decoded
):
    model = with_patches
    for question in ("Where is it?", "Who walks by, and when?"):
        plain, report = tokens(model, processor, vtc.VideoSource(file), question)
        decoded.clear()
        features, own = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), question)
        assert torch.equal(features[0], plain[0])
        assert indices(own.videos[0]) == indices(report.videos[0])
        [use] = own.videos[0].cache
        assert use.kind == "encoder patches"
        first = question == "Where is it?"
        assert use.hit is not first
        assert len(decoded) == (FRAMES if first else KEYFRAMES)
        assert "frame encoder" in own.stages or not first


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_cached_patches_are_mapped_into_memory(with_patches, processor, file, tmp_path):
    tokens(with_patches, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    source = vtc.VideoSource(file, cache=tmp_path)
    inputs = vtc.prepare_inputs(with_patches, processor, source, "Where?")
    call = Call(with_patches, with_patches.vtc, inputs)
    [feed], _ = locate_videos(call)
    store = VideoStore(call, feed)
    assert store.patches.all().shape[0] == FRAMES
    [data] = tmp_path.glob("entries/*/encoder-patches-*/data.safetensors")
    assert str(data) in Path("/proc/self/maps").read_text()


def test_patches_in_another_dtype_are_a_miss(with_patches, processor, file, tmp_path):
    model = with_patches
    tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    model.to(torch.bfloat16)
    _, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    assert "patches='float32' instead of 'bfloat16'" in report.videos[0].cache[0].note


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl", "qwen3_vl"])
def test_merged_tokens_leave_the_keyframes_to_decode(family, file, tmp_path, decoded):
    model, processor = vtc.testing.tiny(family)
    wrapped(model, processor, "mean_pool")
    each = model.vtc.adapter.frames_per_slice
    for question in ("Where is it?", "Who walks by, and when?"):
        plain, report = tokens(model, processor, vtc.VideoSource(file), question)
        decoded.clear()
        features, own = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), question)
        torch.testing.assert_close(features[0], plain[0], rtol=0, atol=1e-5)
        assert indices(own.videos[0]) == indices(report.videos[0])
        first = question == "Where is it?"
        assert [use.hit for use in own.videos[0].cache] == [not first] * 2
        assert own.videos[0].cache[1].kind == "merged tokens"
        assert len(decoded) == (FRAMES if first else KEYFRAMES * each)


def test_merged_tokens_of_several_questions_are_stored_once(model, processor, file, tmp_path):
    wrapped(model, processor, "mean_pool")
    questions = ["Where is it?", "Who walks by, and when?"]
    plain, _ = tokens(model, processor, [vtc.VideoSource(file)] * 2, questions)
    for hit in (False, True):
        source = vtc.VideoSource(file, cache=tmp_path)
        features, report = tokens(model, processor, [source] * 2, questions)
        for one, other in zip(features, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert [video.cache[1].hit for video in report.videos] == [hit] * 2


@pytest.mark.parametrize("part", ["tower", "merger", "processor"])
def test_merged_tokens_of_another_tower_merger_or_processor_are_a_miss(
    model, processor, file, tmp_path, part
):
    wrapped(model, processor, "q_former")
    tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    _, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    assert report.videos[0].cache[1].hit
    if part == "processor":
        processor = copy.deepcopy(processor)
        processor.video_processor.image_mean = [0.1, 0.2, 0.3]
    else:
        module = model.vtc.merger if part == "merger" else model.model.vision_tower
        with torch.no_grad():
            next(module.parameters()).flatten()[0] += 1e-3
    _, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    assert not report.videos[0].cache[1].hit
    assert f"another {part}" in report.videos[0].cache[1].note


def test_a_language_model_of_other_weights_keeps_merged_tokens(model, processor, file, tmp_path):
    wrapped(model, processor, "mean_pool")
    tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    with torch.no_grad():
        next(model.get_decoder().layers.parameters()).add_(1e-3)
    _, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    assert report.videos[0].cache[1].hit


@pytest.mark.parametrize("merger", ["dfm", "memory", "dycoke"])
def test_tokens_that_depend_on_more_than_their_frame_are_not_cached(
    model, processor, file, tmp_path, merger
):
    wrapped(model, processor, merger)
    _, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path), "Where?")
    assert [use.kind for use in report.videos[0].cache] == ["frame embeddings"]
