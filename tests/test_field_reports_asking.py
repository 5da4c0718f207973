"""Arguments that are wrong in an ordinary way end in one clear line, and lose nothing else."""

from __future__ import annotations

import json

import pytest
import torch

import vtc
from vtc.cli.models import read_options
from vtc.plugins.registry import build_part


@pytest.fixture
def wrapped(model, processor, encoder):
    return vtc.wrap(model, "uniform", "mean_pool", processor=processor, encoder=encoder)


@pytest.mark.parametrize("processor_of", [lambda p: None, lambda p: p.tokenizer, lambda p: "qwen"])
def test_a_missing_or_other_processor_is_named(wrapped, processor, make_video, processor_of):
    other = processor_of(processor)
    for call in (vtc.ask, vtc.prepare_inputs):
        with pytest.raises(
            TypeError, match="expected processor to be the model's processor, .* got"
        ):
            call(wrapped, other, make_video(4), "What?")


@pytest.mark.parametrize("wrapper", [torch.nn.DataParallel, torch.nn.Sequential])
def test_a_model_inside_another_module_is_named(wrapped, processor, make_video, wrapper):
    with pytest.raises(TypeError, match=f"expected a Hugging Face model, got {wrapper.__name__}"):
        vtc.prepare_inputs(wrapper(wrapped), processor, make_video(4), "What?")
    with pytest.raises(TypeError, match=r"got DataParallel; pass its \.module"):
        vtc.ask(torch.nn.DataParallel(wrapped), processor, make_video(4), "What?")


def test_a_bad_file_of_a_list_fails_with_its_name_or_is_left_out(
    wrapped, processor, make_video, tmp_path
):
    (tmp_path / "bad.mp4").write_text("no video")
    videos = [make_video(4), tmp_path / "bad.mp4", make_video(6)]
    questions = ["What is red?", "What is lost?", "What is blue?"]
    with pytest.raises(vtc.VideoError, match=r"^bad\.mp4: not a video"):
        vtc.prepare_inputs(wrapped, processor, videos, questions)
    with pytest.warns(UserWarning, match=r"row 1 is left out: bad\.mp4: not a video"):
        inputs = vtc.prepare_inputs(wrapped, processor, videos, questions, errors="report")
    assert inputs["vtc_query"] == ["What is red?", "What is blue?"]
    good = vtc.prepare_inputs(wrapped, processor, videos[::2], questions[::2])
    assert torch.equal(inputs["input_ids"], good["input_ids"])
    with torch.no_grad():
        assert torch.equal(wrapped(**inputs).logits, wrapped(**good).logits)


def test_a_list_without_any_good_file_is_an_error(wrapped, processor, tmp_path):
    videos = [tmp_path / "one.mp4", tmp_path / "two.mp4"]
    with pytest.warns(UserWarning, match="row"), pytest.raises(vtc.VideoError, match="one"):
        vtc.prepare_inputs(wrapped, processor, videos, ["a", "b"], errors="report")
    with pytest.raises(ValueError, match="expected errors to be 'raise' or 'report', got 'skip'"):
        vtc.prepare_inputs(wrapped, processor, videos, ["a", "b"], errors="skip")


def test_a_choice_of_words_may_look_like_a_number_to_yaml():
    """`-a mrope=4.57`, as the docs say it."""
    options = read_options(["mrope=4.57"])
    adapter = build_part("adapter", {"name": "qwen2_vl", **options})
    assert adapter.config.mrope == "4.57"
    with pytest.raises(TypeError, match="expected mrope to be"):
        build_part("adapter", {"name": "qwen2_vl", "mrope": 4.5})


MODELLING = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from transformers import PretrainedConfig
class Config(PretrainedConfig):
    model_type = "evil"
"""


def save_with_code(folder):
    folder.mkdir()
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "modelling.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modelling.py").write_text(MODELLING)
    return folder


@pytest.mark.parametrize("name", ["ask", "profile", "niah"])
def test_every_command_that_opens_a_model_takes_trust_remote_code(name):
    import typer.main

    from vtc.cli import app

    group = typer.main.get_command(app)
    with group.make_context("vtc", [name]) as context:
        options = {word for p in group.get_command(context, name).params for word in p.opts}
    assert "--trust-remote-code" in options


def test_code_beside_a_model_runs_on_the_users_word_only(command, tmp_path, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    folder = save_with_code(tmp_path / "model")
    video = tmp_path / "video.mp4"
    vtc.testing.write_video(video, vtc.testing.moving_squares(seconds=1))
    code, out, err = command("ask", video, "What?", "--model", folder)
    assert code == 1 and out == "" and not (folder / "ran").exists()
    assert "trust" in err
    code, out, err = command("ask", video, "What?", "--model", folder, "--trust-remote-code")
    assert code == 1 and "evil" in err  # no family of that name; its configuration was read
