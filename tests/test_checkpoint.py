"""Saving, loading, copying and pickling a wrapped model."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

import vtc

pytestmark = pytest.mark.filterwarnings("ignore:merger .* has untrained parameters")
MERGERS = ["dfm", {"name": "dfm", "projection": "learned", "temperature": 0.1}, "q_former"]


@pytest.fixture
def inputs(make_inputs, make_video):
    return make_inputs([make_video(8)], ["What is it?"])


@pytest.mark.parametrize("merger", MERGERS, ids=["dfm", "dfm-learned", "q_former"])
@pytest.mark.parametrize("shards", [None, "20KB"])
def test_save_and_load_are_bit_equal(model, processor, encoder, inputs, tmp_path, merger, shards):
    vtc.wrap(model, {"name": "dks", "keyframes": 3}, merger, processor=processor, encoder=encoder)
    model.vtc.chunk_slices = 5
    if shards:
        model.save_pretrained(tmp_path, max_shard_size=shards)
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    else:
        vtc.save_pretrained(model, tmp_path)
    loaded = vtc.from_pretrained(tmp_path, encoder=encoder, processor=processor)
    assert type(loaded).__mro__[1] is LlavaOnevisionForConditionalGeneration
    assert loaded.vtc.chunk_slices == 5
    saved_state, loaded_state = model.state_dict(), loaded.state_dict()
    assert saved_state.keys() == loaded_state.keys()
    assert all(torch.equal(saved_state[key], loaded_state[key]) for key in saved_state)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert vtc.last_report(loaded).selector["keyframes"] == 3


def test_the_folder_alone_is_enough(model, processor, tmp_path, inputs):
    clip = tmp_path / "clip"
    vtc.testing.save_tiny_clip(clip)
    vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=str(clip))
    vtc.save_pretrained(model, tmp_path / "saved")
    loaded = vtc.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def trained(model, processor, encoder, folder):
    """A saved model with a merger and a connector whose weights are not those of a new one."""
    merger = {"name": "dfm", "projection": "learned"}
    vtc.wrap(model, vtc.selector("dks", keyframes=3), merger, processor=processor, encoder=encoder)
    model.vtc.separate_connector()
    with torch.no_grad():
        for weight in model.vtc.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    vtc.save_pretrained(model, folder)
    return model.vtc.state_dict()


def test_another_selector_and_options_leave_the_trained_weights(
    model, processor, encoder, tmp_path
):
    before = trained(model, processor, encoder, tmp_path)
    loaded = vtc.from_pretrained(
        tmp_path,
        encoder=encoder,
        selector=vtc.selector("uniform", keyframes=5),
        merger={"name": "dfm", "projection": "learned", "temperature": 0.5},
    )
    assert loaded.vtc.selector.config.keyframes == 5
    assert loaded.vtc.merger.config.temperature == 0.5
    after = loaded.vtc.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.filterwarnings("default:merger .* has untrained parameters")
def test_another_merger_is_new_and_the_connector_stays(model, processor, encoder, tmp_path):
    before = trained(model, processor, encoder, tmp_path)
    with pytest.warns(UserWarning, match="merger 'q_former' has untrained parameters"):
        loaded = vtc.from_pretrained(tmp_path, encoder=encoder, merger="q_former")
    after = loaded.vtc.state_dict()
    connector = [name for name in before if name.startswith("connector.")]
    assert connector and all(torch.equal(after[name], before[name]) for name in connector)
    assert loaded.vtc.selector.config.keyframes == 3
    with pytest.raises(ValueError, match="do not fit its vtc.json: .*unexpected: .*linear_q"):
        vtc.from_pretrained(tmp_path, encoder=encoder, merger="dfm")  # has no weights


def test_an_encoder_beside_the_model_moves_with_it(model, processor, tmp_path, inputs):
    for name, expected in (("beside", "../clip"), ("deeper/inside", None)):
        clip, folder = tmp_path / "clip", tmp_path / name
        vtc.testing.save_tiny_clip(clip)
        vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=str(clip))
        vtc.save_pretrained(model, folder)
        vtc.unwrap(model)
        saved = json.loads((folder / "vtc.json").read_text())["encoder"]
        assert saved == (expected or str(clip))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "clip").rename(moved / "clip")
    (tmp_path / "beside").rename(moved / "beside")
    loaded = vtc.from_pretrained(moved / "beside")
    with torch.no_grad():
        loaded(**inputs)
    assert loaded.vtc.encoder.name == str(moved / "clip")


def test_an_encoder_object_must_be_given_again(model, processor, encoder, tmp_path, inputs):
    vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)
    vtc.save_pretrained(model, tmp_path)
    loaded = vtc.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pass the encoder: vtc.from_pretrained"):
        loaded(**inputs)


def test_the_stock_class_opens_the_folder_too(model, processor, encoder, tmp_path, inputs):
    with torch.no_grad():
        stock = model(**inputs).logits
        vtc.wrap(model, merger="q_former", processor=processor, encoder=encoder)
        vtc.save_pretrained(model, tmp_path)
        unwrapped = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path)
        assert torch.equal(unwrapped(**inputs).logits, stock)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "LlavaOnevisionForConditionalGeneration"
    ]


def test_what_cannot_be_saved_is_refused_before_anything_is_written(
    model, processor, encoder, tmp_path
):
    class Mine(vtc.FrameSelector):
        def select(self, embeddings, query=None, timestamps=None):
            return vtc.Selection(torch.tensor([0]), None)

    with pytest.warns(UserWarning, match="Mine is not registered by a plug-in"):
        vtc.wrap(model, Mine(), processor=processor, encoder=encoder)
    with pytest.raises(ValueError, match="is not registered"):
        vtc.save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_foreign_folders_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no vtc\.json"):
        vtc.from_pretrained(tmp_path)
    (tmp_path / "vtc.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="has format 99"):
        vtc.from_pretrained(tmp_path)


def test_an_encoder_of_another_width_is_refused(model, processor, encoder, tmp_path):
    trained(model, processor, encoder, tmp_path)
    other = vtc.testing.tiny_encoder(dim=24)
    with pytest.raises(
        ValueError, match=r"expected shape \[32, 24\] for the frame encoder .* got \[32, 16\]"
    ):
        vtc.from_pretrained(tmp_path, encoder=other)


def test_missing_merger_tensors_are_named(model, processor, encoder, tmp_path):
    vtc.wrap(model, "uniform", "q_former", processor=processor, encoder=encoder)
    vtc.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "vtc.json").read_text())
    config["merger"] = {"name": "dfm", "projection": "learned"}
    (tmp_path / "vtc.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tensors missing: \['merger.linear_"):
        vtc.from_pretrained(tmp_path, encoder=encoder)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_are_wrapped_and_apart(model, processor, encoder, inputs, how):
    vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)
    # Pickled before its first call: hooks that transformers adds then cannot be pickled.
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(twin(**inputs).logits, logits)
        with vtc.disabled(model):
            twin.model(**inputs)
            assert vtc.last_report(twin).videos
        vtc.unwrap(model)
        assert vtc.is_wrapped(twin)
        assert torch.equal(twin(**inputs).logits, logits)
        vtc.unwrap(twin)
        assert twin(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


def test_hooks_of_accelerate_stay(model, processor, encoder, inputs):
    """A model dispatched with offloading keeps working when it is wrapped and unwrapped."""
    from accelerate import cpu_offload

    with torch.no_grad():
        vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)
        expected = model(**inputs).logits
        vtc.unwrap(model)
        cpu_offload(model, execution_device=torch.device("cpu"))
        stock = model(**inputs).logits
        vtc.wrap(model, vtc.selector("dks", keyframes=3), processor=processor, encoder=encoder)
        assert torch.equal(model(**inputs).logits, expected)
        vtc.unwrap(model)
        assert torch.equal(model(**inputs).logits, stock)


def test_a_part_that_is_not_installed_is_said_to_come_from_the_folder(model, encoder, tmp_path):
    vtc.save_pretrained(vtc.wrap(model, encoder=encoder), tmp_path)
    file = tmp_path / "vtc.json"
    file.write_text(file.read_text().replace('"dks"', '"acme"'))
    with pytest.raises(ValueError, match=rf"vtc.json in {tmp_path}: unknown selector 'acme'"):
        vtc.from_pretrained(tmp_path, encoder=encoder)
