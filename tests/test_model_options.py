"""Options of opening a model on the command line, and the system turn of its prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pytest
import transformers
import typer
from family_models import CONTRACTS, built, wrap
from typer.testing import CliRunner

import vtc
from vtc.cli import models
from vtc.cli.models import ModelOptions
from vtc.cli.options import grouped
from vtc.wrapped.opening import open_stock
from vtc.wrapped.wrapping import unwrap

NO_SYSTEM_TURN = {"paligemma", "smolvlm"}
INSTRUCTIONS = "Answer in one word."


@dataclass(frozen=True, kw_only=True)
class Sizes:
    width: Annotated[int, typer.Option("--width", "-w", min=1)]
    colours: Annotated[list[str], typer.Option("--colour")] = field(default_factory=list)
    deep: Annotated[bool, typer.Option("--deep")] = False


@grouped
def draw(name: str, sizes: Sizes, scale: float = 1.0) -> None:
    print(json.dumps([name, sizes.width, sizes.colours, sizes.deep, scale]))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["box", "-w", "3"], ["box", 3, [], False, 1.0]),
        (
            ["box", "--width", "2", "--colour", "red", "--colour", "blue", "--deep"],
            ["box", 2, ["red", "blue"], True, 1.0],
        ),
        (["box", "-w", "3", "--scale", "2"], ["box", 3, [], False, 2.0]),
        (["box", "-w", "0"], None),
        (["box"], None),
    ],
)
def test_a_group_of_options_becomes_an_option_for_each_field(words, values):
    app = typer.Typer()
    app.command()(draw)
    run = CliRunner().invoke(app, words)
    if values is None:
        assert run.exit_code == 2
    else:
        assert json.loads(run.stdout) == values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor, _ = open_stock("tiny:llava_onevision")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def loading(monkeypatch):
    """The arguments of ``from_pretrained``, which loads without quantizing; no model is moved."""
    arguments = {}
    auto = transformers.AutoModelForImageTextToText
    real = auto.from_pretrained

    def load(*names, quantization_config=None, **options):
        arguments.update(options, quantization_config=quantization_config)
        model, info = real(*names, **options)
        monkeypatch.setattr(type(model), "to", lambda self, place: pytest.fail(f"moved to {place}"))
        return model, info

    monkeypatch.setattr(auto, "from_pretrained", load)
    return arguments


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_device_map_places_the_model(folder, loading, device_map):
    pytest.importorskip("accelerate")
    model, _ = ModelOptions(model=folder, device_map=device_map).open(quiet=True)
    assert vtc.is_wrapped(model) and loading["device_map"] == device_map


@pytest.mark.parametrize(("bits", "device"), [(8, "auto"), (4, "auto"), (4, "cpu")])
def test_quantization_reaches_from_pretrained(folder, loading, monkeypatch, bits, device):
    pytest.importorskip("accelerate")
    monkeypatch.setattr(models, "find_spec", lambda package: object())
    wrapped = ModelOptions(model=folder, device=device, **{f"load_in_{bits}bit": True})
    wrapped.open(quiet=True)
    config = loading["quantization_config"]
    assert isinstance(config, transformers.BitsAndBytesConfig)
    assert (config.load_in_8bit, config.load_in_4bit) == (bits == 8, bits == 4)
    assert loading.get("device_map") == (None if device == "auto" else device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_in_8bit": True}, "--load-in-8bit needs bitsandbytes, which is not installed"),
        (
            {"load_in_8bit": True, "load_in_4bit": True},
            "-8bit or --load-in-4bit, got both",
        ),
        ({"device_map": "auto", "device": "cpu"}, "--device or --device-map, got both"),
        ({"device_map": "nowhere"}, "nowhere"),
        ({"model": "tiny:llava_onevision", "device_map": "cpu"}, "needs weights in files"),
    ],
)
def test_options_that_cannot_be_met_are_refused(folder, monkeypatch, options, message):
    pytest.importorskip("accelerate")
    monkeypatch.setattr(models, "find_spec", lambda package: None)
    with pytest.raises((ValueError, ImportError), match=message):
        ModelOptions(**{"model": folder, **options}).open(quiet=True)


def test_the_weights_that_are_loaded_show_on_the_error_stream(folder, monkeypatch, capsys):
    from rich.progress import Progress

    stages = {}
    real = Progress.update

    def update(self, task, **values):
        stages[self.tasks[task].description] = values["completed"], values["total"]
        real(self, task, **values)

    monkeypatch.setattr(Progress, "update", update)
    ModelOptions(model=folder).open()
    done, total = stages["loading weights"]
    assert done == total > 10 and capsys.readouterr().out == ""
    stages.clear()
    ModelOptions(model=folder).open(quiet=True)
    assert stages == {} and capsys.readouterr().err == ""


@pytest.mark.parametrize("family", sorted(CONTRACTS))
def test_a_system_text_is_in_the_prompt_or_refused(family, encoder):
    model, processor = wrap(family, encoder)
    video = np.zeros((4, 32, 32, 3), np.uint8)
    arguments = (model, processor, video, "What is red?")
    if family in NO_SYSTEM_TURN:
        with pytest.raises(ValueError, match="have no system turn; write the instructions into"):
            vtc.prepare_inputs(*arguments, system=INSTRUCTIONS)
        return
    inputs = vtc.prepare_inputs(*arguments, system=INSTRUCTIONS)
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.count(INSTRUCTIONS) == 1 and text.index(INSTRUCTIONS) < text.index("What is red?")
    assert inputs["vtc_query"] == ["What is red?"]
    plain = processor.tokenizer.decode(vtc.prepare_inputs(*arguments)["input_ids"][0])
    assert INSTRUCTIONS not in plain and built(family)[1] is processor


def test_system_must_be_plain_text(encoder):
    model, processor = wrap("qwen2_vl", encoder)
    video = np.zeros((4, 32, 32, 3), np.uint8)
    for system, kind, message in (
        (" ", ValueError, "expected system to be some text"),
        ("a <|video_pad|>", ValueError, "expected system to be plain text"),
        (["Be brief."], TypeError, "expected system to be a text, got list"),
    ):
        with pytest.raises(kind, match=message):
            vtc.ask(model, processor, video, "What?", system=system)
    processor = built("qwen2_vl")[1]
    assert "apply_chat_template" not in vars(processor)  # the caller's is not changed
    unwrap(model)
