"""Saved folders: encoders that are found again, damaged JSON, indexes that leave the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import vtc

pytestmark = [
    pytest.mark.filterwarnings("ignore:merger .* has untrained parameters"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]
KEYFRAMES = vtc.selector("dks", keyframes=3)


@pytest.fixture
def inputs(make_inputs: Any, make_video: Any) -> Any:
    return make_inputs([make_video(8)], ["What is it?"])


@pytest.fixture
def saved(model: Any, processor: Any, tmp_path: Path) -> Path:
    vtc.testing.save_tiny_clip(tmp_path / "clip")
    clip = str(tmp_path / "clip")
    vtc.wrap(model, KEYFRAMES, "q_former", processor=processor, encoder=clip)
    vtc.save_pretrained(model, tmp_path / "saved")
    return tmp_path / "saved"


def test_an_encoder_with_a_relative_path_is_found_from_another_directory(
    model: Any, processor: Any, tmp_path: Path, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vtc.testing.save_tiny_clip("clip")
    vtc.wrap(model, KEYFRAMES, processor=processor, encoder="clip")
    vtc.save_pretrained(model, "runs/mine")
    with torch.no_grad():
        expected = model(**inputs).logits
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = vtc.from_pretrained(tmp_path / "runs" / "mine")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, expected)
    shutil.rmtree(tmp_path / "clip")
    with pytest.raises(ValueError, match=f"no such folder: {tmp_path / 'clip'}"):
        vtc.from_pretrained(tmp_path / "runs" / "mine")


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("open_clip:./clip", "open_clip:{}/clip"),
        ("timm:clip", "timm:{}/clip"),
        (
            "open_clip:ViT-B-32/clip/model.safetensors",
            "open_clip:ViT-B-32/{}/clip/model.safetensors",
        ),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/openai"),
        ("hf:openai/clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32"),
    ],
)
def test_every_form_of_a_relative_path_is_saved_as_an_absolute_one(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    vtc.testing.save_tiny_clip("clip")
    vtc.wrap(model, "uniform", "drop", encoder=spec)
    model.save_pretrained(tmp_path / "deep" / "saved")
    found = json.loads((tmp_path / "deep" / "saved" / "vtc.json").read_text())["encoder"]
    assert found == place.format(tmp_path)


def test_an_encoder_inside_a_repository_on_the_hub_is_downloaded(
    saved: Path, model: Any, tmp_path: Path, inputs: Any
) -> None:
    """Offline, from a cache folder as huggingface_hub leaves it."""
    commit = "0" * 40
    repository = tmp_path / "cache" / "models--me--mine"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(saved, snapshot)
    shutil.copytree(saved.parent / "clip", snapshot / "encoder")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    config = json.loads((saved / "vtc.json").read_text())
    (snapshot / "vtc.json").write_text(json.dumps({**config, "encoder": "./encoder"}))
    hub = {"cache_dir": str(tmp_path / "cache"), "local_files_only": True}
    loaded = vtc.from_pretrained("me/mine", **hub)
    assert loaded.vtc.encoder.name == str(snapshot / "encoder")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vtc.json", "{", "vtc.json is not valid JSON: Expecting property name"),
        ("vtc.json", "[]", "vtc.json: expected a mapping, got list"),
        ("vtc.json", '{"format": 1}', "selector is missing.*merger is missing.*encoder is missing"),
        ("vtc.json", '{"format": 1, "encoder": 3}', "encoder: expected a string, got 3"),
        ("config.json", "", "config.json is not valid JSON"),
        ("config.json", "3", "config.json: expected a mapping, got int"),
        ("generation_config.json", "{", "generation_config.json is not valid JSON"),
        ("processor_config.json", "{", "processor_config.json is not valid JSON"),
        ("tokenizer.json", "{", "tokenizer.json is not valid JSON"),
        ("tokenizer_config.json", "\x00", "tokenizer_config.json is not valid JSON"),
        ("model.safetensors.index.json", "{}", "weight_map is missing"),
    ],
)
def test_damaged_json_is_named_with_its_path_and_the_error(
    saved: Path, name: str, content: str, message: str
) -> None:
    assert (saved / name).exists() or "index" in name
    (saved / name).write_text(content)
    with pytest.raises((ValueError, OSError), match=f"(?s){message}") as caught:
        vtc.open_model(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd", "..\\x", "C:\\x", ""])
def test_weights_outside_the_folder_are_refused(saved: Path, model: Any, name: str) -> None:
    model.save_pretrained(saved, max_shard_size="20KB")
    (saved / "model.safetensors").unlink(missing_ok=True)
    file = saved / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["vtc.merger.tokens"] = name
    file.write_text(json.dumps(index))
    for open_it in (vtc.open_model, vtc.from_pretrained):
        with pytest.raises(ValueError, match="weight_map of vtc.merger.tokens: expected a file in"):
            open_it(saved)


def test_a_config_without_architectures_is_named(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "architectures": None}))
    with pytest.raises(ValueError, match="expected architectures to name a class of transformers"):
        vtc.from_pretrained(saved)
