"""Frameworks around a wrapped model: what they lend, replace, compile or offload."""

import pytest
import torch
from accelerate import Accelerator, cpu_offload
from accelerate.state import AcceleratorState
from torch import nn

import vtc
from vtc.testing.inputs import drifting_video, stock_inputs


@pytest.fixture
def wrapped(model, processor):
    return vtc.wrap(model, vtc.selector("uniform", keyframes=2), "mean_pool", processor=processor)


@pytest.fixture
def inputs(processor):
    return dict(stock_inputs(processor, [drifting_video(8)], ["What is red?"]))


class Lending(nn.Module):
    """As FSDP and DeepSpeed, it lends the attributes of the model inside."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


@pytest.mark.parametrize("verb", [vtc.is_wrapped, vtc.last_report, vtc.wrap, vtc.unwrap])
def test_a_module_that_lends_the_attributes_of_a_model_is_named(wrapped, verb):
    """FSDP's counted as a stock model: `is_wrapped` was False, and `wrap` changed its class."""
    with pytest.raises(TypeError, match=r"got Lending; pass its \.module"):
        verb(Lending(wrapped))


@pytest.fixture
def accelerate_anew():
    """Forget the settings of accelerate, which are global, before and after a test."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("accelerate_anew")
def test_a_model_that_accelerate_gave_back_is_unwrapped(wrapped, inputs):
    """It leaves the forward of the class on the object; the advice in the message did not help."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(wrapped)
    with pytest.raises(ValueError, match="keep_fp32_wrapper=False"):
        vtc.unwrap(prepared)
    model = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    vtc.unwrap(model)
    assert "forward" not in vars(model)
    vtc.wrap(model, vtc.selector("uniform", keyframes=2), "mean_pool")
    assert model(**inputs).logits.isfinite().all()
    assert vtc.last_report(model).tokens_after < 30


@pytest.mark.slow
def test_compression_itself_is_not_compiled(wrapped, inputs):
    """It took minutes, and was compiled anew for each length."""
    seen = []

    class Uniform(type(wrapped.vtc.selector)):
        def select(self, *args):
            seen.append(torch.compiler.is_compiling())
            return super().select(*args)

    wrapped.vtc.selector = Uniform(wrapped.vtc.selector.config)
    with torch.no_grad():
        expected = wrapped(**inputs).logits
        compiled = torch.compile(wrapped, backend="eager")
        assert torch.equal(compiled(**inputs).logits, expected)
    assert seen == [False, False]


@pytest.mark.parametrize("call", ["forward", "generate", "wrap"])
def test_a_forward_on_the_class_that_drops_videos_is_refused(wrapped, inputs, monkeypatch, call):
    """The language model saw placeholders in place of the video."""
    base = type(wrapped).vtc_stock_class
    stock = base.forward

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        return stock(self, input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    monkeypatch.setattr(base, "forward", forward)
    with pytest.raises(ValueError, match="forward takes no mm_encoder_outputs"):
        if call == "wrap":
            vtc.wrap(vtc.unwrap(wrapped))
        elif call == "generate":
            wrapped.generate(**inputs, max_new_tokens=2)
        else:
            wrapped(**inputs)


@pytest.mark.parametrize("verb", ["forward", "generate"])
@pytest.mark.parametrize("kind", ["row", "list"])
def test_ids_of_another_shape_are_named(wrapped, inputs, verb, kind):
    ids = inputs.pop("input_ids")
    ids = ids[0] if kind == "row" else ids.tolist()
    with pytest.raises(TypeError, match=r"expected input_ids to be a tensor \[B, L\], got"):
        getattr(wrapped, verb)(input_ids=ids, **inputs)


def test_offloaded_weights_are_named_and_the_old_folder_stays(wrapped, tmp_path):
    wrapped.save_pretrained(tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    cpu_offload(wrapped, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="is offloaded, so it cannot be saved"):
        wrapped.save_pretrained(tmp_path / "model")
    assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_ids_that_are_given_twice_are_refused(wrapped, inputs):
    """The second ones took the place of the first in silence."""
    ids = inputs["input_ids"]
    with pytest.raises(TypeError, match="forward got input_ids twice, by position and by name"):
        wrapped(ids, **inputs)
    with pytest.raises(ValueError, match="expected either inputs or input_ids, got both"):
        wrapped.generate(ids, **inputs)
