"""A connector of their own for merged frames (Eq. 11 of ViLAMP), in every family."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import vtc
from vtc.pipeline.call import Call
from vtc.pipeline.connector import model_with_projectors
from vtc.pipeline.prepare import prepare

KEYFRAMES = 2


def features(model, inputs):
    """What the language model gets of the video: ``[F, D]``, deepstack features beside it."""
    prepared = prepare(Call(model, model.vtc, inputs))
    (rows,) = prepared.inputs["mm_encoder_outputs"][model.vtc.adapter.modality].pooler_output
    keyframes = {frame.index for frame in prepared.report.videos[0].keyframes}
    return rows, {index // model.vtc.adapter.frames_per_slice for index in keyframes}


def of_merged_frames(model, rows, keyframes):
    """``[F]`` bool: which rows are merged tokens, counted by hand."""
    tail = model.vtc.adapter.tail_length()
    each = (len(rows) - tail - (6 - KEYFRAMES)) // KEYFRAMES
    flags = [flag for n in range(6) for flag in ([False] * each if n in keyframes else [True])]
    return torch.tensor(flags + [False] * tail)


def change(connector):
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))


def test_an_untrained_one_changes_nothing(case):
    model, inputs = case
    with torch.no_grad():
        expected = model(**inputs).logits
        model.vtc.separate_connector()
        assert torch.equal(model(**inputs).logits, expected)
        generated = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]


def test_a_changed_one_changes_merged_tokens_alone(case):
    model, inputs = case
    model.vtc.separate_connector()
    with torch.no_grad():
        before, keyframes = features(model, inputs)
        change(model.vtc.connector)
        after, _ = features(model, inputs)
    changed = (before != after).any(-1)
    assert torch.equal(changed, of_merged_frames(model, before, keyframes))


def test_merged_frames_are_those_of_a_model_with_that_projector(case):
    """The reference: the copy put into a stock model for good."""
    model, inputs = case
    model.vtc.separate_connector()
    change(model.vtc.connector)
    other = copy.deepcopy(model)
    other.vtc.connector = None
    for name, projector in zip(
        model.vtc.connector.names, model.vtc.connector.projectors, strict=True
    ):
        other.get_submodule(name).load_state_dict(projector.state_dict())
    with torch.no_grad():
        rows, keyframes = features(model, inputs)
        replaced, _ = features(other, inputs)
    merged = of_merged_frames(model, rows, keyframes)
    assert torch.equal(rows[merged], replaced[merged])
    assert not torch.equal(rows[~merged], replaced[~merged])


def test_gradients_reach_both(case):
    model, inputs = case
    model.vtc.separate_connector()
    model.train()
    model(**inputs).logits.square().mean().backward()
    for name, copied in zip(model.vtc.connector.names, model.vtc.connector.projectors, strict=True):
        for module in (model.get_submodule(name), copied):
            last = list(module.parameters())[-1]
            assert last.grad is not None and bool((last.grad != 0).any()), name


def test_save_and_load(case, encoder, tmp_path):
    model, inputs = case
    model.vtc.separate_connector()
    change(model.vtc.connector)
    with torch.no_grad():
        expected = model(**inputs).logits
        vtc.save_pretrained(model, tmp_path)
        opened = vtc.from_pretrained(tmp_path, encoder=encoder, processor=model.vtc.processor)
        assert torch.equal(opened.eval()(**inputs).logits, expected)


def test_unwrap_leaves_the_stock_model(case):
    model, inputs = case
    stock = {name: value.clone() for name, value in model.state_dict().items()}
    model.vtc.separate_connector()
    change(model.vtc.connector)
    with torch.no_grad():
        model(**inputs)
    vtc.unwrap(model)
    after = model.state_dict()
    assert after.keys() == {name for name in stock if not name.startswith("vtc.")}
    assert all(torch.equal(value, stock[name]) for name, value in after.items())


# --- one family is enough for the rest


@pytest.fixture
def wrapped(model, processor, encoder):
    selector = vtc.selector("uniform", keyframes=3)
    return vtc.wrap(model, selector, "dfm", processor=processor, encoder=encoder)


@pytest.fixture
def inputs(make_inputs, make_video):
    return make_inputs([make_video(8, 1)], ["What is it?"])


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_have_their_own(wrapped, inputs, how):
    wrapped.vtc.separate_connector()
    change(wrapped.vtc.connector)
    twin = copy.deepcopy(wrapped) if how == "deepcopy" else pickle.loads(pickle.dumps(wrapped))
    with torch.no_grad():
        expected = wrapped(**inputs).logits
        assert torch.equal(twin(**inputs).logits, expected)
        change(twin.vtc.connector)
        assert torch.equal(wrapped(**inputs).logits, expected)
        assert not torch.equal(twin(**inputs).logits, expected)


def test_a_copy_can_be_given_one(wrapped):
    twin = pickle.loads(pickle.dumps(wrapped))
    twin.vtc.separate_connector()
    assert twin.vtc.connector is not None and wrapped.vtc.connector is None


def test_gradient_checkpointing_changes_no_gradient(wrapped, inputs):
    wrapped.vtc.separate_connector()
    change(wrapped.vtc.connector)
    wrapped.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(wrapped, "activation_checkpointing_enable", None)
            (enable or wrapped.gradient_checkpointing_enable)()
        wrapped.zero_grad()
        wrapped(**inputs).logits.square().mean().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in wrapped.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert any("vtc.connector" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by peft
def test_peft_trains_and_reloads_it(wrapped, inputs, tmp_path):
    import peft

    wrapped.vtc.separate_connector()
    fresh = copy.deepcopy(wrapped)
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["vtc.connector"])
    tuned = peft.get_peft_model(wrapped, config)
    trained = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert any("vtc.connector" in name for name in trained)
    assert not any("multi_modal_projector" in name and "vtc" not in name for name in trained)
    with torch.no_grad():
        before = tuned(**inputs).logits
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad and "connector" in name:
            parameter.data.add_(0.1)
    with torch.no_grad():
        after = tuned(**inputs).logits
        assert not torch.equal(before, after)
        tuned.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
        assert torch.equal(loaded(**inputs).logits, after)
        assert (loaded.merge_and_unload()(**inputs).logits - after).abs().max() < 1e-4


def test_projecting_through_a_connector_leaves_the_model_as_it_is(wrapped):
    wrapped.vtc.separate_connector()
    stock = wrapped.model.multi_modal_projector
    view = model_with_projectors(wrapped, wrapped.vtc.connector)
    assert view.model.multi_modal_projector is wrapped.vtc.connector.projectors[0]
    assert view.model.vision_tower is wrapped.model.vision_tower
    assert wrapped.model.multi_modal_projector is stock


def test_a_second_one_and_one_without_a_model_are_refused(wrapped, processor, encoder):
    toolkit = copy.deepcopy(wrapped.vtc)
    with pytest.raises(ValueError, match="belongs to no model; add a connector to the vtc"):
        toolkit.separate_connector()
    wrapped.vtc.separate_connector()
    with pytest.raises(ValueError, match="already have a connector"):
        wrapped.vtc.separate_connector()


def test_a_family_without_a_named_projector_is_refused(wrapped):
    class Nameless(type(wrapped.vtc.adapter)):
        projectors = ()

    wrapped.vtc.adapter = Nameless()
    with pytest.raises(ValueError, match="names no projector.*`projectors`"):
        wrapped.vtc.separate_connector()


def test_a_separate_connector_is_used_where_the_tower_was_compiled_or_has_hooks():
    """``compile()`` and accelerate's hooks bind functions to the original module."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    from vtc.pipeline.connector import model_with_projectors

    for change in ("hook", "compiled"):
        model, _ = vtc.testing.tiny("qwen2_vl")
        vtc.wrap(model, "uniform", "mean_pool")
        model.vtc.separate_connector()
        if change == "hook":
            add_hook_to_module(model.model.visual, ModelHook())
        else:
            model.model.visual._compiled_call_impl = model.model.visual._call_impl
        view = model_with_projectors(model, model.vtc.connector)
        assert view.model.visual.merger is not model.model.visual.merger
        if change == "hook":
            assert view.model.visual.forward.args[0] is view.model.visual
        else:
            assert view.model.visual._compiled_call_impl is None
