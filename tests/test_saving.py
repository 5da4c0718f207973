"""A saved model is a stock folder with the toolkit beside it, and is replaced as a whole."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

import vtc
from vtc.testing.inputs import drifting_video
from vtc.wrapped import saving, staging

FAMILIES = ["llava_onevision", "qwen2_5_vl", "internvl", "gemma3", "qwen3_vl"]


def wrapped(family="llava_onevision", merger="q_former"):
    model, processor = vtc.testing.tiny(family)
    vtc.wrap(model, "uniform", merger, processor=processor)
    return model


def names(folder):
    found = set()
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            found |= set(tensors.keys())
    return found


@pytest.mark.filterwarnings("ignore:.*untrained parameters")
@pytest.mark.parametrize("shards", ["50GB", "20KB"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_have_the_names_of_the_stock_class(family, shards, tmp_path):
    stock, _ = vtc.testing.tiny(family)
    stock.save_pretrained(tmp_path / "stock", max_shard_size=shards)
    model = wrapped(family)
    model.save_pretrained(tmp_path / "ours", max_shard_size=shards)
    assert names(tmp_path / "ours") == names(tmp_path / "stock")
    assert set(os.listdir(tmp_path / "ours")) - set(os.listdir(tmp_path / "stock")) == {
        "vtc.json",
        "vtc.safetensors",
    }
    opened, loading = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading.values()) and not vtc.is_wrapped(opened)
    ours = vtc.from_pretrained(tmp_path / "ours").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(ours[name], value), name


@pytest.mark.filterwarnings("ignore:.*untrained parameters")
def test_a_checkpoint_of_a_trainer_holds_all_tensors_by_their_names_in_memory(tmp_path):
    model = wrapped()
    model.save_pretrained(tmp_path / "checkpoint-3")
    assert names(tmp_path / "checkpoint-3") >= {f"vtc.{name}" for name in model.vtc.state_dict()}
    opened = vtc.from_pretrained(tmp_path / "checkpoint-3").state_dict()
    assert all(torch.equal(opened[name], value) for name, value in model.state_dict().items())


def shifted(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return model


def same(folder, model):
    opened = vtc.from_pretrained(folder).state_dict()
    return all(torch.equal(opened[name], value) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*untrained parameters")
def test_a_save_that_fails_while_it_writes_keeps_the_old_model(tmp_path, monkeypatch):
    old = wrapped()
    vtc.save_pretrained(old, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(saving, "save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vtc.save_pretrained(shifted(wrapped()), tmp_path)
    assert same(tmp_path, old) and (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".vtc*"))


@pytest.mark.filterwarnings("ignore:.*untrained parameters")
def test_a_save_that_is_killed_between_two_renames_is_finished_by_the_next(tmp_path, monkeypatch):
    old, new = wrapped(), shifted(wrapped())
    old.save_pretrained(tmp_path / "old", max_shard_size="20KB")  # leaves shards to remove
    vtc.save_pretrained(new, tmp_path / "count")
    files = len(list((tmp_path / "count").iterdir()))
    replace = os.replace
    for allowed in range(files):
        folder = tmp_path / f"killed-{allowed}"
        shutil.copytree(tmp_path / "old", folder)
        calls = []

        def dies(source, target, calls=calls, allowed=allowed):
            calls.append(target)
            if len(calls) > allowed:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(staging.os, "replace", dies)
            with pytest.raises(KeyboardInterrupt):
                vtc.save_pretrained(new, folder)
        assert same(folder, new)
        assert not list(folder.glob(".vtc*")) and not list(folder.glob("model-*"))


@pytest.mark.filterwarnings("ignore:.*untrained parameters")
def test_what_a_dead_process_left_is_removed_and_a_live_one_is_named(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leftover = tmp_path / f".vtc-partial-{process.pid}"
    leftover.mkdir()
    model = wrapped()
    with pytest.raises(RuntimeError, match=f"process {process.pid} is saving into"):
        vtc.save_pretrained(model, tmp_path)
    process.communicate(b"\n")
    vtc.save_pretrained(model, tmp_path)
    assert not leftover.exists() and same(tmp_path, model)


def test_a_frame_encoder_in_another_folder_is_saved_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vtc.testing.save_tiny_clip(tmp_path / "encoders" / "clip")
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, "dks", "mean_pool", processor=processor, encoder="encoders/clip")
    vtc.save_pretrained(model, tmp_path / "models" / "one")
    saved = json.loads((tmp_path / "models" / "one" / "vtc.json").read_text())
    assert saved["encoder"] == str(tmp_path / "encoders" / "clip")
    monkeypatch.chdir("/")
    opened = vtc.from_pretrained(tmp_path / "models" / "one")
    answer = vtc.ask(opened, opened.vtc.processor, drifting_video(6), "What?", max_new_tokens=2)
    assert answer.report.frames == 6


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_on_an_untrained_merger_still_warns_and_warns_when_saved(tmp_path):
    peft = pytest.importorskip("peft")
    with pytest.warns(UserWarning, match="'q_former' has untrained parameters"):
        model = wrapped()
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))
    assert model.vtc.untrained() == ["merger"]
    with pytest.warns(UserWarning, match=r"LoRA is on the merger.*modules_to_save=\['vtc'\]"):
        tuned.save_pretrained(tmp_path)
    for name, parameter in model.vtc.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    assert model.vtc.untrained() == []
    with pytest.warns(UserWarning, match="LoRA is on the merger"):
        tuned.save_pretrained(tmp_path)
