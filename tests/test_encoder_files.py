"""Files that hold no encoder, unknown names and a missing network are explained."""

from __future__ import annotations

import copy
import json
import time

import huggingface_hub
import open_clip
import pytest
import transformers
from encoder_files import ARCHITECTURE
from open_clip.pretrained import _PRETRAINED

from vtc.encoders import hub
from vtc.encoders.lazy import load_encoder


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:ViT-B-23/openai", "has no model 'ViT-B-23'; similar: ViT-B-32"),
        ("open_clip:ViT-B-32/opnai", "tags: openai, .* Did you mean 'openai'?"),
        ("open_clip:ViT-B-32/old.pt", r"safetensors only.*torch.load\('old.pt', weights_only=True"),
        ("open_clip:ViT-B-32//no/w.safetensors", "'/no/w.safetensors' is not a .safetensors file"),
        ("open_clip:/no/such/folder", "there is no such folder"),
    ],
)
def test_unknown_open_clip_names_are_explained(spec, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(spec)


def test_open_clip_files_that_do_not_fit_are_explained(open_clip_weights, tmp_path):
    with (
        pytest.warns(UserWarning, match="runs with GELU.*write 'ViT-B-32-quickgelu'"),
        pytest.raises(ValueError, match="weights do not fit this architecture"),
    ):
        load_encoder(f"open_clip:ViT-B-32/{open_clip_weights}")
    with pytest.raises(ValueError, match="ViT-L-14 differ in preprocessing"):
        load_encoder(f"open_clip:ViT-L-14/{open_clip_weights}")
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="weights do not fit this architecture"):
        load_encoder(f"open_clip:{ARCHITECTURE}/{tmp_path}/w.safetensors")
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="lacks open_clip_config.json.*holds open_clip_py.*save_f"):
        load_encoder(f"open_clip:{tmp_path}")


def test_folders_of_something_else_are_explained(clip_folder, open_clip_folder, tmp_path):
    with pytest.raises(ValueError, match="has no config.json; a transformers CLIP"):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match="has no config.json; .* write 'open_clip:"):
        load_encoder(open_clip_folder)
    config = json.loads((clip_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="no .safetensors file; weights are read from safetensors"):
        load_encoder(tmp_path)
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    model.vision_model.save_pretrained(tmp_path)  # the weights of one tower
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lacks .* weights of CLIPModel, such as"):
        load_encoder(tmp_path)
    other = copy.deepcopy(config) | {"model_type": "llava"}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="SigLIP, SigLIP2 or BLIP model .* got model_type 'llava'"):
        load_encoder(tmp_path)


def missing_tag(monkeypatch):
    published = open_clip.get_pretrained_cfg("ViT-B-32", "openai") | {"hf_hub": "no-one/nothing/"}
    monkeypatch.setitem(_PRETRAINED["ViT-B-32"], "openai", published)


SPECS = ["open_clip:ViT-B-32/openai", "hf:no-one/nothing", "timm:vit_small_patch14_dinov2.lvd142m"]


@pytest.mark.parametrize("spec", SPECS)
def test_without_a_network_a_missing_encoder_is_one_line_within_seconds(spec, monkeypatch):
    missing_tag(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # Nothing listens at this port.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(OSError, match="is not in the local cache .*hf download.*HF_HUB_OFFLINE=1"):
        load_encoder(spec)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("spec", SPECS)
def test_offline_mode_is_named_where_it_forbids_a_download(spec, monkeypatch):
    missing_tag(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE=1 forbids downloads.*give the folder"):
        load_encoder(spec)


def test_cached_files_are_used_without_asking_the_hub(monkeypatch):
    monkeypatch.setattr(hub, "_require_answer", lambda address: pytest.fail("asked the hub"))
    assert hub.cache_first("hf:a/b", "a/b", "/folder", lambda local: local) is True


def test_files_that_the_cache_lacks_are_downloaded(monkeypatch):
    def load(local):
        if local:
            raise OSError("not cached")
        return "downloaded"

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_require_answer", lambda address: None)
    assert hub.cache_first("hf:a/b", "a/b", "/folder", load) == "downloaded"
