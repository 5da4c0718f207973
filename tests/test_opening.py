"""Models are opened by one function, whatever their name stands for, and never incompletely."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vtc
from vtc.wrapped.opening import find_model, open_shape, open_stock, saved_parts

FAMILY = "tiny:llava_onevision"


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    model, processor, _ = open_stock(FAMILY)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def copy_of_stock(stock_folder, tmp_path):
    return Path(shutil.copytree(stock_folder, tmp_path / "copy"))


def change_weights(folder: Path, change) -> str:
    """Apply ``change`` to the tensors of a folder and the name of one of them; return its end."""
    tensors = load_file(folder / "model.safetensors")
    key = next(name for name in sorted(tensors) if "norm" in name)
    change(tensors, key)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return key.partition("layers.")[2]


def add_python(folder: Path) -> Path:
    """Point all configurations of a folder to Python code, which leaves a mark when it runs."""
    mark = folder / "ran"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Any: pass\n")
    names = ("Config", "Processor", "ModelForImageTextToText", "ImageProcessor", "VideoProcessor")
    mapping: dict = {f"Auto{name}": "code.Any" for name in names}
    mapping["AutoTokenizer"] = ["code.Any", "code.Any"]
    for file in folder.glob("*config.json"):
        values = json.loads(file.read_text("utf-8"))
        for part in (values, *(v for k, v in values.items() if k.endswith("_processor"))):
            part["auto_map"] = mapping
        file.write_text(json.dumps(values))
    return mark


def answers(monkeypatch, text: str) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: text)


def test_a_tiny_family_is_opened_wrapped_with_the_seed_of_its_weights():
    model, processor = vtc.open_model(FAMILY, merger="mean_pool", device="cpu", seed=3)
    expected = vtc.testing.tiny("llava_onevision", seed=3)[0].state_dict()
    assert vtc.is_wrapped(model) and model.vtc.processor is processor
    assert all(torch.equal(model.state_dict()[key], value) for key, value in expected.items())


def test_a_stock_folder_is_opened_with_the_default_parts(stock_folder):
    model, _ = vtc.open_model(stock_folder, device="cpu")
    assert model.vtc.name_of(model.vtc.selector) == "dks"
    assert model.vtc.name_of(model.vtc.merger) == "dfm"
    assert find_model(stock_folder) == str(stock_folder)


def test_a_folder_that_vtc_saved_keeps_its_parts_unless_others_are_given(tmp_path):
    encoder = vtc.testing.tiny_encoder()
    model, _ = vtc.open_model(FAMILY, selector="uniform", encoder=encoder, device="cpu")
    vtc.save_pretrained(model, tmp_path)
    assert saved_parts(tmp_path)["selector"]["name"] == "uniform"
    again, _ = vtc.open_model(tmp_path, encoder=encoder, device="cpu")
    assert again.vtc.name_of(again.vtc.selector) == "uniform"
    other, _ = vtc.open_model(tmp_path, selector="dks", encoder=encoder, device="cpu")
    assert other.vtc.name_of(other.vtc.selector) == "dks"
    model, _, toolkit = open_stock(tmp_path, encoder=encoder)
    assert not vtc.is_wrapped(model) and toolkit.name_of(toolkit.selector) == "uniform"


def test_the_shipped_model_is_opened_by_its_name():
    model, processor = vtc.open_model("shipped", device="cpu")
    assert vtc.is_wrapped(model) and processor.tokenizer is not None


@pytest.mark.parametrize("name", [FAMILY, "shipped"])
def test_a_model_is_laid_out_without_weights(name):
    model = open_stock(name, meta=True).model
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert open_shape(name)[0] is not None


def test_the_dtype_is_that_which_was_asked_for(stock_folder):
    for name in (FAMILY, stock_folder):
        assert open_stock(name, dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "./no-folder", "/no/folder", "owner/na me"])
def test_a_name_of_no_known_form_is_refused(name):
    with pytest.raises(ValueError, match=f"model '{name}' is not a folder; give a folder"):
        vtc.open_model(name, device="cpu")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder without a config.json"):
        vtc.open_model(tmp_path, device="cpu")


def test_wrong_parts_devices_and_dtypes_are_refused_before_anything_is_read():
    for options, message in [
        ({"selector": "dkss"}, "unknown selector 'dkss'"),
        ({"device": "cuda:77"}, "cannot use device='cuda:77' here"),
        ({"dtype": "int8"}, "expected dtype to be auto, .*, got 'int8'"),
        ({"dtype": "silly"}, "expected dtype to be auto, .*, got 'silly'"),
    ]:
        with pytest.raises(ValueError, match=message):
            vtc.open_model("owner/not-downloaded", **options)


def test_missing_weights_are_refused_by_name(copy_of_stock):
    key = change_weights(copy_of_stock, lambda tensors, key: tensors.pop(key))
    with pytest.raises(ValueError, match=f"lack 1 tensors of LlavaOnevision.*such as .*{key}"):
        vtc.open_model(copy_of_stock, device="cpu")


def test_missing_weights_of_a_folder_that_vtc_saved_are_refused(tmp_path):
    encoder = vtc.testing.tiny_encoder()
    model, _ = vtc.open_model(FAMILY, encoder=encoder, device="cpu")
    vtc.save_pretrained(model, tmp_path)
    key = change_weights(tmp_path, lambda tensors, key: tensors.pop(key))
    with pytest.raises(ValueError, match=f"lack 1 tensors .*{key}"):
        vtc.from_pretrained(tmp_path, encoder=encoder)


def test_weights_of_another_shape_are_refused_by_name(copy_of_stock):
    key = change_weights(
        copy_of_stock, lambda tensors, key: tensors.update({key: torch.zeros(3, 3)})
    )
    with pytest.raises(ValueError, match=rf"such as .*{key}: expected \[\d+\], got \[3, 3\]"):
        vtc.open_model(copy_of_stock, device="cpu")


@pytest.mark.parametrize("reply", ["y", "n"])
def test_python_beside_the_weights_is_neither_run_nor_asked_for(copy_of_stock, monkeypatch, reply):
    mark = add_python(copy_of_stock)
    answers(monkeypatch, reply)
    model, processor = vtc.open_model(copy_of_stock, device="cpu")
    assert type(processor).__name__ == "LlavaOnevisionProcessor"
    assert type(model).__mro__[1].__name__ == "LlavaOnevisionForConditionalGeneration"
    assert not mark.exists()


def test_a_folder_that_needs_python_of_its_own_is_refused(copy_of_stock, monkeypatch):
    mark = add_python(copy_of_stock)
    answers(monkeypatch, "y")
    config = copy_of_stock / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "other"}))
    for opened in (vtc.open_model, open_shape, open_stock):
        with pytest.raises(ValueError, match="trust_remote_code"):
            opened(copy_of_stock)
    assert not mark.exists()
