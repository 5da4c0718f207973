"""Old names work for one version: each warns at the caller's line and gives the new name."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import vtc
from vtc.interfaces.video_span import VideoSpan
from vtc.plugins import registry
from vtc_adapters.internvl import InternVLAdapter
from vtc_adapters.qwen3_vl import Qwen3VLAdapter


@pytest.fixture
def wrapped(encoder):
    model, processor = vtc.testing.tiny("qwen3_vl")
    return vtc.wrap(model, "uniform", processor=processor, encoder=encoder)


def test_the_option_wrapping_sets_frame_text(wrapped):
    with pytest.warns(DeprecationWarning, match="option 'wrapping'.*use 'frame_text'") as caught:
        wrapped.vtc.configure(wrapping="all")
    assert [warning.filename for warning in caught] == [__file__]
    assert wrapped.vtc.adapter.config.frame_text == "all"


def test_an_option_given_by_both_names_is_refused(wrapped):
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="its old name"):
        wrapped.vtc.configure(wrapping="all", frame_text="none")


def test_a_folder_saved_with_the_old_option_opens(wrapped, encoder, tmp_path):
    vtc.save_pretrained(wrapped, tmp_path)
    saved = json.loads((tmp_path / "vtc.json").read_text())
    del saved["adapter"]["frame_text"]
    saved["adapter"]["wrapping"] = "none"
    (tmp_path / "vtc.json").write_text(json.dumps(saved))
    with pytest.warns(DeprecationWarning, match="use 'frame_text'"):
        model = vtc.from_pretrained(tmp_path, encoder=encoder)
    assert model.vtc.adapter.config.frame_text == "none"


def answer_with(adapter, monkeypatch, encoder):
    """What a tiny InternVL writes about a video, and its report, with another adapter class."""
    monkeypatch.setattr(registry, "adapter_for", lambda model_type: adapter())
    model, processor = vtc.testing.tiny("internvl")
    selector = vtc.selector("uniform", keyframes=2)
    vtc.wrap(model, selector, processor=processor, encoder=encoder)
    video = vtc.testing.drifting_video(4, 0, (56, 56))
    return vtc.ask(model, processor, video, "What?", max_new_tokens=4)


@pytest.mark.parametrize("inherited", [False, True])
def test_an_adapter_that_overrides_the_old_methods_still_works(inherited, monkeypatch, encoder):
    class Mixin:
        def wrapping(self, slots):
            text = super().wrapping(slots)
            return (text[0][:0], *text[1:])

        def keeps_wrapping(self, is_keyframe):
            return ~super().keeps_wrapping(is_keyframe)

    with pytest.warns(DeprecationWarning, match="method wrapping of .*Old.*use frame_text"):

        class Old(Mixin, InternVLAdapter):
            pass

    class New(InternVLAdapter):
        def frame_text(self, slots):
            text = super().frame_text(slots)
            return (text[0][:0], *text[1:])

        def keeps_frame_text(self, is_keyframe):
            return ~super().keeps_frame_text(is_keyframe)

    class Heir(Old):
        pass

    new = answer_with(New, monkeypatch, encoder)
    with pytest.warns(DeprecationWarning, match="Old.wrapping|Heir.wrapping"):
        old = answer_with(Heir if inherited else Old, monkeypatch, encoder)
    assert old.text == new.text
    assert old.report.text_after == new.report.text_after != 0
    standard = answer_with(InternVLAdapter, monkeypatch, encoder)
    assert standard.report.text_after != new.report.text_after


def test_old_methods_of_shipped_adapters_call_the_new_ones():
    slots = torch.arange(12).view(3, 4) * 2 + 9
    adapter = Qwen3VLAdapter()
    with pytest.warns(DeprecationWarning, match="Qwen3VLAdapter.wrapping"):
        old = adapter.wrapping(slots)
    assert all(torch.equal(*pair) for pair in zip(old, adapter.frame_text(slots), strict=True))


def test_a_span_takes_and_gives_its_text_by_the_old_name():
    text = (torch.tensor([3, 8]),)
    slots = torch.arange(4, 8)[None]
    with pytest.warns(DeprecationWarning, match=r"VideoSpan\(frame_text"):
        span = VideoSpan(0, slots, slots[0, :0], wrapping=text)
    assert span.frame_text is text and (span.first, span.last) == (3, 8)
    with pytest.warns(DeprecationWarning, match="VideoSpan.frame_text"):
        assert span.wrapping is text


def test_the_byte_tokenizer_is_found_under_its_old_name():
    with pytest.warns(DeprecationWarning, match="use vtc_adapters.tiny.tokenizer.byte_tokenizer"):
        assert vtc.testing.byte_tokenizer()("a")["input_ids"]


def test_chunk_frames_sets_chunk_slices(wrapped):
    with pytest.warns(DeprecationWarning, match="use model.vtc.chunk_slices") as caught:
        wrapped.vtc.chunk_frames = 3
    assert [warning.filename for warning in caught] == [__file__]
    assert wrapped.vtc.chunk_slices == 3
    with pytest.warns(DeprecationWarning, match="use model.vtc.chunk_slices"):
        assert wrapped.vtc.chunk_frames == 3


def test_the_old_flag_of_vtc_profile_for_slices_warns(command):
    with pytest.warns(DeprecationWarning, match="--chunk-frames .* use --chunk-slices"):
        code, _, err = command("profile", "llava-onevision-7b", "--chunk-frames", "0")
    assert code == 1 and "expected chunk >= 1, got 0" in err


def test_a_folder_saved_with_the_old_names_of_connector_and_chunks_opens(encoder, tmp_path):
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, "uniform", processor=processor, encoder=encoder)
    with pytest.warns(UserWarning, match="untrained"):
        model.vtc.merge_encoder_patches()
    vtc.save_pretrained(model, tmp_path)
    saved = json.loads((tmp_path / "vtc.json").read_text())
    assert saved["connector"] == "encoder_patches"
    del saved["chunk_slices"]
    saved |= {"connector": "trained", "chunk_frames": 5}
    (tmp_path / "vtc.json").write_text(json.dumps(saved))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # a file is no fault of the caller's
        warnings.filterwarnings("ignore", ".*untrained parameters")
        opened = vtc.from_pretrained(tmp_path, encoder=encoder)
    assert opened.vtc.connector_kind == "encoder_patches"
    assert opened.vtc.chunk_slices == 5
