"""Saved folders: encoders that are found again, damaged JSON, indexes that leave the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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
        ("model.safetensors.index.json", '{"weight_map": {}}', "metadata is missing"),
        ("vtc.json", "9" * 5000, "vtc.json is not valid JSON: Exceeds the limit"),
        ("generation_config.json", "[]", "generation_config.json: expected a mapping, got list"),
        ("tokenizer.json", "[]", "tokenizer.json: expected a mapping, got list"),
        ("tokenizer.json", '{"version": "1.0", "model": 3}', "processor in .* cannot be opened"),
        (
            "model.safetensors",
            "version https://git-lfs",
            "model.safetensors is cut off or not a safe",
        ),
        ("vtc.safetensors", "", "vtc.safetensors is cut off or not a safetensors file"),
    ],
)
def test_damaged_json_is_named_with_its_path_and_the_error(
    saved: Path, name: str, content: str, message: str
) -> None:
    assert (saved / name).exists() or "index" in name or name == "vtc.safetensors"
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": {"zzz": 1}}, r"vtc.json in .*takes no options, got 'zzz'"),
        ({"untrained": ["zzz"]}, r"vtc.json has 1 error:\s+- untrained.0: expected 'merger' or"),
    ],
)
def test_a_setting_of_another_version_is_named_with_its_file(
    saved: Path, settings: dict[str, Any], message: str
) -> None:
    config = json.loads((saved / "vtc.json").read_text())
    (saved / "vtc.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(ValueError, match=message):
        vtc.from_pretrained(saved)


def test_weights_of_integers_without_a_quantization_are_refused(saved: Path) -> None:
    """They were taken as they are: every answer was garbage."""
    weights = load_file(saved / "model.safetensors")
    integers = {key: (value * 100).to(torch.int8) for key, value in weights.items()}
    save_file(integers, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model.safetensors: .*weight holds integers \(I8\)"):
        vtc.from_pretrained(saved)


def test_tensors_of_a_merger_that_are_integers_are_refused(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="untrained"):
        vtc.wrap(model, vtc.selector("uniform", keyframes=2), "q_former", processor=processor)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "vtc.safetensors")
    integers = {k: v if k.endswith("weight") else v.int() for k, v in tensors.items()}
    save_file(integers, tmp_path / "vtc.safetensors")
    with pytest.raises(ValueError, match=r"expected a tensor of torch.float32, got torch.int32"):
        vtc.from_pretrained(tmp_path)


def test_an_empty_name_is_no_folder(model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    vtc.wrap(model, "uniform", "mean_pool")
    with pytest.raises(ValueError, match="expected a folder to save into, got ''"):
        vtc.save_pretrained(model, "")
    assert not list(tmp_path.iterdir())
