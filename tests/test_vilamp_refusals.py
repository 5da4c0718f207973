"""Checkpoints that cannot be converted, and conversions that stop half-way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from vilamp_release import DIM, QUESTION, Release

import vtc
from vtc_recipes.vilamp import convert as converting
from vtc_recipes.vilamp.convert import convert


def spoil(release, tensors, name):
    """Make one thing wrong; returns what the error must say."""
    layer = "model.layers.1.mlp.up_proj.weight"
    if name == "missing":
        del tensors[layer]
        return f"1 missing: {layer}"
    if name == "unexpected":
        tensors["model.vision_resampler.query"] = torch.zeros(2)
        return "1 unexpected: model.vision_resampler.query"
    if name == "misshapen":
        tensors[layer] = torch.zeros(3, DIM)
        return rf"1 with another shape: {layer} \[3, 32\] instead of \[64, 32\]"
    if name == "the deleted layer":
        first = "model.vision_tower.vision_tower.vision_model.encoder.layers.0."
        for key in [key for key in tensors if key.startswith(first)]:
            tensors[key.replace("layers.0.", "layers.2.")] = tensors[key].clone()
        return r"16 unexpected: model.vision_tower\S*layers.2."
    if name == "an untied head":
        del tensors["lm_head.weight"]
        return "1 missing: lm_head.weight"
    if name == "quantised":
        tensors[layer] = tensors[layer].to(torch.int8)
        return f"expected {layer} in model-.* to have one of the dtypes F64.*, got I8"
    if name == "a negative temperature":
        tensors["model.composer_projector.tau"] = torch.tensor(-0.01)
        return "merger 'dfm': expected temperature to be a number in .*, got -0.0"
    raise ValueError(name)


WRONG_TENSORS = [
    "missing",
    "unexpected",
    "misshapen",
    "the deleted layer",
    "an untied head",
    "quantised",
    "a negative temperature",
]
WRONG_SETTINGS = {
    "model_type": ("qwen2", "expected model_type 'llava_qwen'.* got 'qwen2'"),
    "composer_type": ("single_token", "got 'single_token': it computes a frame's"),
    "activate_frame_selector": (False, "expected activate_frame_selector to be True, got False"),
    "frame_selector_type": ("ClusterFrameSelector", "to be 'SeqFrameSelector', got"),
    "activate_pre_fusion": (True, "expected activate_pre_fusion to be False, got True"),
    "mm_spatial_pool_mode": ("average", "mm_spatial_pool_mode to be 'bilinear', got 'average'"),
    "max_frame_num": (
        0,
        "selector 'dks': expected keyframes to be a whole number of at least 1, got 0",
    ),
    "f2f_thrd": (1.5, "selector 'dks': expected similarity_threshold to be .*, got 1.5"),
    "vocab_size": (10, r"model.embed_tokens.weight \[\d+, 32\] instead of \[10, 32\]"),
    "hidden_size": (64, "with another shape: .* and .* more"),
}


@pytest.fixture
def spoilt(tmp_path):
    (tmp_path / "made").mkdir()
    return Release(tmp_path / "made")


def refused(release, target, message, error=ValueError, **options):
    with pytest.raises(error, match=message):
        release.convert(target, **options)
    assert not target.exists() and not list(target.parent.glob(".*partial*"))


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_listed(spoilt, tmp_path, name):
    tensors = spoilt.tensors()
    message = spoil(spoilt, tensors, name)
    spoilt.write(tensors)
    refused(spoilt, tmp_path / "out", message)


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_settings_that_nothing_here_computes_are_refused(spoilt, tmp_path, name):
    value, message = WRONG_SETTINGS[name]
    tensors = spoilt.tensors()
    spoilt.settings[name] = value
    spoilt.write(tensors)
    refused(spoilt, tmp_path / "out", message)


def test_without_a_composer_type_the_tensors_tell(spoilt, tmp_path):
    tensors = spoilt.tensors()
    del spoilt.settings["composer_type"]
    spoilt.write(tensors)
    notes = spoilt.convert(tmp_path / "out").notes
    assert "has no composer_type; the tensors match 'sig_pooling'" in notes[0]
    tensors = {k: v for k, v in tensors.items() if "composer" not in k}
    spoilt.write(tensors)
    refused(spoilt, tmp_path / "other", "composer_type to be one of .*, got 'single_token'")


def test_a_scaled_rope_in_the_settings_is_left_alone(spoilt, tmp_path):
    """The release ignores it; transformers fails to read it beside the tokenizer."""
    spoilt.settings["rope_scaling"] = {"type": "yarn", "factor": 4.0}
    spoilt.write(spoilt.tensors())
    assert spoilt.convert(tmp_path / "out").has_processor


def test_a_lost_index_is_named(spoilt, tmp_path):
    spoilt.write(spoilt.tensors())
    (spoilt.folder / "model.safetensors.index.json").unlink()
    refused(spoilt, tmp_path / "out", "no model.safetensors.index.json: download it too")


def test_pickled_weights_are_read_only_if_asked_for(spoilt, converted, tmp_path):
    tensors = spoilt.tensors()
    for file in spoilt.folder.glob("*.safetensors*"):
        file.unlink()
    refused(spoilt, tmp_path / "out", "has no model.safetensors", FileNotFoundError)
    torch.save(tensors, spoilt.folder / "pytorch_model.bin")
    refused(
        spoilt,
        tmp_path / "out",
        "pytorch_model.bin is pickled; .*may run arbitrary code.*--allow-pickle",
    )
    spoilt.convert(tmp_path / "out", allow_pickle=True)
    one, two = (vtc.from_pretrained(f).state_dict() for f in (converted, tmp_path / "out"))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    torch.save({**tensors, "more": Path()}, spoilt.folder / "pytorch_model.bin")
    message = "pytorch_model.bin is incomplete or holds objects other than tensors"
    refused(spoilt, tmp_path / "other", message, allow_pickle=True)


def test_towers_that_are_none_of_these_are_named(release, tmp_path):
    target = tmp_path / "out"
    refused(release, target, "misshapen|with another shape", vision=None)
    refused(
        release,
        target,
        "vision-config .*: expected model_type .*, got 'clip'",
        vision=release.clip_folder,
    )
    refused(
        release,
        target,
        "clip-config .*: expected model_type .*, got 'siglip_v",
        clip=release.vision,
    )
    refused(release, target, "has no config.json", FileNotFoundError, clip=tmp_path)


def test_a_target_with_something_in_it_stays_as_it_is(release, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(ValueError, match="expected target to be a new or empty folder, got"):
        release.convert(tmp_path / "mine")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    release.convert(tmp_path / "empty")
    assert vtc.wrapped.loading.is_saved_by_vtc(tmp_path / "empty")


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing(release, tmp_path, error):
    def interrupt(file):
        assert list(tmp_path.glob(".out.partial-*")) and not (tmp_path / "out").exists()
        raise error

    refused(release, tmp_path / "out", str(error) or None, type(error), wrote=interrupt)


def test_leftovers_of_a_dead_process_are_removed_and_a_running_one_is_named(release, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, os.getpid()):
        (tmp_path / f".out.partial-{process}").mkdir()
        (tmp_path / f".out.partial-{process}" / "model.safetensors").touch()
    running = tmp_path / f".out.partial-{os.getppid()}"
    running.mkdir()
    with pytest.raises(ValueError, match=f"process {os.getppid()} is converting into .*/out; wait"):
        release.convert(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    running.rmdir()
    release.convert(tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_every_file_is_on_the_disk_before_the_target_appears(release, tmp_path, monkeypatch):
    flushed, flush = [], converting.flush

    def watch(path):
        flushed.append((path.name, (tmp_path / "out").exists()))
        flush(path)

    monkeypatch.setattr(converting, "flush", watch)
    release.convert(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").rglob("*")}
    assert written <= {name for name, appeared in flushed if not appeared}
    assert flushed[-1] == (tmp_path.name, True)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "../out.safetensors"}}', "names '../out.safetensors'; expected a f"),
        ('{"weight_map": {"a": "/etc/x.safetensors"}}', "names '/etc/x.safetensors'; expected a f"),
        ('{"weight_map": []}', "expected weight_map to be an object of file names"),
        ("{}", "expected weight_map to be an object of file names"),
        ("[]", "expected .*index.json to hold a JSON object, got list"),
        ('{"weight_map": ', "index.json is not valid JSON: .*line 1"),
    ],
)
def test_a_broken_index_is_named(spoilt, tmp_path, index, message):
    (spoilt.folder / "model.safetensors.index.json").write_text(index)
    refused(spoilt, tmp_path / "out", f"model.safetensors.index.json.*{message}|{message}")


def test_broken_settings_are_named(spoilt, tmp_path):
    (spoilt.folder / "config.json").write_text("")
    refused(spoilt, tmp_path / "out", "released/config.json is not valid JSON")


def test_a_source_or_a_shard_that_is_missing_is_named(release, tmp_path):
    for source in ("nowhere", "./no/where", str(tmp_path / "no")):
        with pytest.raises(ValueError, match="expected source to be a folder or OWNER/NAME"):
            convert(source, tmp_path / "out")
    shard = next(release.folder.glob("*.safetensors"))
    shard.rename(tmp_path / "aside")
    refused(release, tmp_path / "out", f"lacks {shard.name}, listed in model.safetensors.index")
    shard.write_bytes((tmp_path / "aside").read_bytes()[:500])
    refused(release, tmp_path / "out", f"{shard.name} is not a complete safetensors file")
    (tmp_path / "aside").rename(shard)
    refused(
        release,
        tmp_path / "out",
        "no such folder: .*no; give",
        FileNotFoundError,
        clip=tmp_path / "no",
    )


def test_the_command(release, tmp_path, command):
    words = ["--vision-config", release.vision, "--clip-config", release.clip_folder]
    code, out, err = command("convert-vilamp", release.folder, tmp_path / "out", *words)
    assert code == 0, err
    assert "wrote model.safetensors\nwrote frame_encoder/model.safetensors" in out
    assert "reference='released'" in out and "vtc ask VIDEO" in out
    code, out, err = command("convert-vilamp", release.folder, tmp_path / "out", *words)
    assert (
        code == 1 and "error: expected target to be a new or empty" in err and err.count("\n") == 1
    )
    code, out, _ = command("convert-vilamp", release.folder, tmp_path / "two", *words, "--json")
    assert json.loads(out)["selector"]["fill"] == "gaps"
    video = tmp_path / "scenes.mp4"
    vtc.testing.write_video(video, vtc.testing.moving_squares(seconds=8))
    code, out, err = command(
        "ask", video, QUESTION, "--model", tmp_path / "out", "--max-new-tokens", 4, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["report"]["merger"]["reference"] == "released"
