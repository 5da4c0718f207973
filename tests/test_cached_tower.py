"""With the vision tower's output in the cache, a second question decodes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

import vtc
from vtc.cache.folder import CacheFolder
from vtc.cache.sizes import size_text
from vtc.pipeline.call import Call
from vtc.pipeline.prepare import prepare

FRAMES, KEYFRAMES = 12, 3
KIND = "vision tower output"
pytestmark = pytest.mark.filterwarnings("ignore:squares.mp4. the vision tower's output")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=FRAMES))
    return path


def wrapped(model, processor, merger="dfm"):
    selector = vtc.selector("dks", keyframes=KEYFRAMES, similarity_threshold=1.0)
    encoder = vtc.testing.tiny_encoder()
    return vtc.wrap(model, selector, merger, processor=processor, encoder=encoder)


def tokens(model, processor, source, question="Where is it?"):
    """The features that the language model gets, and the report."""
    inputs = vtc.prepare_inputs(model, processor, source, question)
    with torch.no_grad():
        prepared = prepare(Call(model, model.vtc, inputs, generating=True))
    features = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    return features[0], prepared.report


def use_of(report, kind=KIND):
    [use] = [use for use in report.videos[0].cache if use.kind == kind]
    return use


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llava_onevision", torch.float32),
        ("llava_onevision", torch.bfloat16),
        ("qwen2_5_vl", torch.bfloat16),
        ("qwen3_vl", torch.bfloat16),
        ("internvl", torch.bfloat16),
    ],
)
def test_a_second_question_decodes_nothing_and_runs_no_tower(
    family, dtype, file, tmp_path, decoded
):
    model, processor = vtc.testing.tiny(family)
    wrapped(model.to(dtype), processor)
    for question in ("Where is it?", "Who walks by, and when?"):
        plain, report = tokens(model, processor, vtc.VideoSource(file), question)
        decoded.clear()
        source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
        features, own = tokens(model, processor, source, question)
        largest_difference = (features - plain).abs().max()
        # dfm's softmax has a temperature of 0.01, and so enlarges the rounding of bfloat16.
        assert largest_difference <= (0 if dtype == torch.bfloat16 else 0.02 * plain.abs().max())
        assert indices(own) == indices(report)
        first = question == "Where is it?"
        assert [use.hit for use in own.videos[0].cache] == [not first] * 2
        assert len(decoded) == own.videos[0].decoded == (FRAMES if first else 0)
        assert any(name.startswith("vision tower") for name in own.stages) is first
    again, _ = tokens(model, processor, source, question)
    assert torch.equal(again, features)


def indices(report):
    return [frame.index for frame in report.videos[0].keyframes]


def test_the_size_is_said_first(model, processor, file, tmp_path):
    wrapped(model, processor)
    vision = model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    size = FRAMES * patches * vision.hidden_size * 2
    source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
    with pytest.warns(UserWarning, match=f"output of 12 slices takes {size_text(size)} in"):
        _, report = tokens(model, processor, source)
    assert "computed and stored (" in str(use_of(report))
    [entry] = [one for one in CacheFolder(tmp_path).entries() if one.entry.kind == KIND]
    assert 0 <= entry.entry.bytes - size < 300


@pytest.mark.parametrize("change", ["tower", "processor", "configuration", "projector", "language"])
def test_only_what_the_tower_depends_on_is_a_miss(model, processor, file, tmp_path, change):
    wrapped(model, processor)
    tokens(model, processor, vtc.VideoSource(file, cache=tmp_path, cache_tower=True))
    modules = {
        "tower": model.model.vision_tower,
        "projector": model.model.multi_modal_projector,
        "language": model.get_decoder().layers,
    }
    if change == "processor":
        processor = copy.deepcopy(processor)
        processor.video_processor.image_mean = [0.1, 0.2, 0.3]
    elif change == "configuration":
        model.config.vision_feature_layer = -2
    else:
        with torch.no_grad():
            next(modules[change].parameters()).flatten()[0] += 1e-3
    plain, _ = tokens(model, processor, vtc.VideoSource(file))
    features, report = tokens(
        model, processor, vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
    )
    assert (features - plain).abs().max() <= 0.02 * plain.abs().max()
    assert use_of(report).hit is (change in ("projector", "language"))
    if not use_of(report).hit:
        assert f"another {change}" in use_of(report).note


def test_it_is_neither_read_nor_written_unless_asked_for(model, processor, file, tmp_path):
    wrapped(model, processor)
    plain, _ = tokens(model, processor, vtc.VideoSource(file))
    for cache_tower in (True, False):
        source = vtc.VideoSource(file, cache=tmp_path, cache_tower=cache_tower)
        features, report = tokens(model, processor, source)
        assert torch.equal(features, plain) is not cache_tower
        assert [use.kind for use in report.videos[0].cache] == ["frame embeddings", KIND][
            : 1 + cache_tower
        ]


def test_a_separate_connector_projects_the_cached_output(model, processor, file, tmp_path):
    wrapped(model, processor)
    model.vtc.separate_connector()
    with torch.no_grad():
        next(model.vtc.connector.parameters()).mul_(1.5)
    plain, _ = tokens(model, processor, vtc.VideoSource(file))
    for _ in range(2):
        source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
        features, report = tokens(model, processor, source)
        assert (features - plain).abs().max() <= 0.02 * plain.abs().max()
    assert use_of(report).hit


@pytest.mark.parametrize("merger", ["drop", "mean_pool"])
def test_other_mergers_take_the_cached_output(model, processor, file, tmp_path, decoded, merger):
    wrapped(model.to(torch.bfloat16), processor, merger)
    plain, _ = tokens(model, processor, vtc.VideoSource(file))
    for _ in range(2):
        decoded.clear()
        source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
        features, report = tokens(model, processor, source)
        torch.testing.assert_close(features, plain, rtol=0.01, atol=0.01)
    assert use_of(report).hit and not decoded


def test_merged_tokens_of_rounded_values_have_an_entry_of_their_own(
    model, processor, file, tmp_path
):
    wrapped(model, processor, "mean_pool")
    plain, _ = tokens(model, processor, vtc.VideoSource(file))
    tokens(model, processor, vtc.VideoSource(file, cache=tmp_path, cache_tower=True))
    features, report = tokens(model, processor, vtc.VideoSource(file, cache=tmp_path))
    torch.testing.assert_close(features, plain, rtol=0, atol=1e-5)
    assert not use_of(report, "merged tokens").hit


def test_a_damaged_output_is_computed_again(model, processor, file, tmp_path):
    wrapped(model, processor)
    source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
    features, _ = tokens(model, processor, source)
    [data] = tmp_path.glob("entries/*/vision-tower-output-*/data.safetensors")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="was damaged and has been removed"):
        again, report = tokens(model, processor, source)
    assert torch.equal(again, features) and "was damaged" in use_of(report).note
    assert use_of(tokens(model, processor, source)[1]).hit


def test_without_room_the_question_is_answered_all_the_same(model, processor, file, tmp_path):
    wrapped(model, processor)
    CacheFolder(tmp_path).set_limit(3000)
    plain, _ = tokens(model, processor, vtc.VideoSource(file))
    features, report = tokens(
        model, processor, vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
    )
    assert torch.equal(features, plain)
    assert str(use_of(report)) == f"{KIND} computed and not stored"
    assert any("set its limit with vtc cache --limit" in warning for warning in report.warnings)
    assert not list(tmp_path.glob("unfinished/*"))


def test_a_call_that_is_stopped_leaves_nothing(model, processor, file, tmp_path):
    wrapped(model, processor)

    def stop(stage, done, total):
        if stage == "vision tower (to cache)" and done > 4:
            assert list(tmp_path.glob("unfinished/*"))  # the first chunk is written
            raise KeyboardInterrupt

    model.vtc.progress = stop
    model.vtc.chunk_slices = 4
    with pytest.raises(KeyboardInterrupt):
        tokens(model, processor, vtc.VideoSource(file, cache=tmp_path, cache_tower=True))
    assert not list(tmp_path.glob("unfinished/*"))
    assert KIND not in [one.entry.kind for one in CacheFolder(tmp_path).entries()]


def test_forward_takes_the_cached_output(model, processor, file, tmp_path):
    wrapped(model.to(torch.bfloat16), processor)
    results = []
    with torch.no_grad():
        for options in ({}, *[{"cache": tmp_path, "cache_tower": True}] * 2):
            source = vtc.VideoSource(file, **options)
            results.append(model(**vtc.prepare_inputs(model, processor, source, "Where?")))
    plain, *cached = results
    assert plain.video_outputs.last_hidden_state is not None
    for result in cached:
        assert torch.equal(result.logits, plain.logits)
        assert result.video_outputs.last_hidden_state is None


def test_training_runs_the_tower(model, processor, file, tmp_path):
    wrapped(model, processor)
    source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
    tokens(model, processor, source)
    inputs = vtc.prepare_inputs(model, processor, source, "Where?")
    model(**inputs).logits.sum().backward()
    assert next(model.model.vision_tower.parameters()).grad is not None


def test_impossible_requests_are_refused(model, processor, file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected a cache with cache_tower=True, got cache=None"):
        vtc.VideoSource(file, cache_tower=True)
    wrapped(model, processor)
    adapter = type(model.vtc.adapter)
    monkeypatch.setattr(adapter, "tower", vtc.VideoAdapter.tower)
    source = vtc.VideoSource(file, cache=tmp_path, cache_tower=True)
    with pytest.raises(ValueError, match="needs an adapter with tower.. and project.."):
        tokens(model, processor, source)
    with pytest.raises(NotImplementedError, match="does not separate the vision tower"):
        model.vtc.adapter.tower(model, {})
