"""dino_diff, the frame encoders of timm that it looks through, and selectors with their own."""

from __future__ import annotations

import json
import math
import shutil

import huggingface_hub
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference import cosine, integer_videos
from torch.nn import functional as F

import vtc
from vtc.encoders.lazy import LazyEncoder, load_encoder
from vtc.testing import LargestTensor, scene_embeddings
from vtc_selectors.dino_diff import DinoDiff

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    """A tiny vision transformer of timm, on disk."""
    folder = tmp_path_factory.mktemp("vit")
    vtc.testing.save_tiny_timm(folder)
    return folder


def dino_diff_by_hand(rows, keyframes, size):
    """Window by window: mean similarity with the others, the mean as the limit, no copies."""
    size = min(size, len(rows))
    redundancy, kept = [], []
    for start in range(0, len(rows), size):
        # A window that reaches beyond the end is moved back, and judges its new frames only.
        first = min(start, len(rows) - size)
        window = range(first, first + size)
        similar = {
            n: math.fsum(cosine(rows[n], rows[m]) for m in window if m != n) / max(size - 1, 1)
            for n in window
        }
        limit = math.fsum(similar.values()) / size + 1e-6
        for n in range(start, first + size):
            redundancy.append(similar[n])
            copies = [m for m in window if m < n and cosine(rows[m], rows[n]) > 1 - 1e-6]
            if similar[n] <= limit and not any(similar[m] <= limit for m in copies):
                kept.append(n)
    least = sorted(kept, key=lambda n: round(redundancy[n], 7))[:keyframes]
    return sorted(least), [1 - value for value in redundancy]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 61, 530])
def test_agrees_with_the_reference(frames, dtype):
    embeddings, _ = scene_embeddings(frames, dim=6, seed=frames, dtype=dtype)
    for keyframes, window in [(1, 8), (5, 8), (400, 8), (20, 2), (20, 5), (400, 300)]:
        config = DinoDiff.Config(keyframes=keyframes, window=window)
        selection = DinoDiff(config).select(embeddings)
        indices, relevance = dino_diff_by_hand(embeddings.tolist(), keyframes, window)
        assert selection.keyframes.tolist() == indices
        assert selection.relevance.dtype == torch.float32
        expected = torch.tensor(relevance)
        torch.testing.assert_close(selection.relevance, expected, rtol=0, atol=1e-6)
        if window == 300:
            break


@settings(deadline=None)
@given(integer_videos(), st.integers(1, 14), st.integers(2, 9))
def test_agrees_where_frames_are_equal(video, keyframes, window):
    config = DinoDiff.Config(keyframes=keyframes, window=window)
    video, _ = video
    indices = DinoDiff(config).select(torch.tensor(video).float()).keyframes
    assert indices.dtype == torch.int64
    assert 1 <= len(indices) <= min(keyframes, len(video))
    assert indices.tolist() == dino_diff_by_hand(video, keyframes, window)[0]


def test_a_still_video_keeps_one_frame_a_window():
    still = torch.tensor([[3.0, 4.0]]).repeat(300, 1)
    indices = DinoDiff(DinoDiff.Config(keyframes=99)).select(still).keyframes
    assert indices.tolist() == [*range(0, 296, 8)]  # the last four are copies in a window that
    few = DinoDiff(DinoDiff.Config(keyframes=3)).select(still).keyframes  # began before them
    assert few.tolist() == [0, 8, 16]


def test_a_copy_of_a_frame_that_is_dropped_stays():
    def at(angle):
        return [math.cos(angle), math.sin(angle)]

    # The first two are copies but for a hair, and that hair puts the first above the mean.
    frames = torch.tensor([at(1e-3), at(0.0), at(1.0), at(1.0)], dtype=torch.float64)
    assert DinoDiff(DinoDiff.Config(window=4)).select(frames).keyframes.tolist() == [1, 2]


def test_frames_that_all_differ_stay():
    assert DinoDiff().select(torch.eye(8)).keyframes.tolist() == list(range(8))
    generator = torch.Generator().manual_seed(0)
    rotated = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q  # equal but for rounding
    assert DinoDiff().select(rotated).keyframes.tolist() == list(range(8))
    zeros = DinoDiff(DinoDiff.Config(keyframes=3)).select(torch.zeros(9, 4))
    assert zeros.keyframes.tolist() == [0, 1, 2]
    assert zeros.relevance.tolist() == [1.0] * 9


def test_memory_is_linear_in_frames():
    embeddings, _ = scene_embeddings(5000, dim=64, seed=0)
    with LargestTensor() as largest:
        DinoDiff().select(embeddings)
    assert 5000 <= largest.numbers <= 256 * 64


@pytest.mark.parametrize("size", [(48, 56), (32, 32), (20, 90)])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_timm_encoder_agrees_with_timms_own_path(vit, tmp_path, make_video, size, mode):
    """Against Pillow images, timm's transform, the features of the model, each frame in float64."""
    shutil.copytree(vit, tmp_path / "vit")
    config = json.loads((vit / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_mode": mode, "mean": [0.48, 0.45, 0.4], "crop_pct": 0.8}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    frames = make_video(5, size=size)
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).double().eval()
    data = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**data, is_training=False)
    with torch.no_grad():
        expected = torch.cat(
            [
                model.forward_head(
                    model.forward_features(transform(Image.fromarray(frame)).double()[None]),
                    pre_logits=True,
                )
                for frame in frames
            ]
        )
    encoder = load_encoder(f"timm:{tmp_path / 'vit'}", batch_size=2)
    output = encoder.encode_frames(frames)
    assert output.dtype == torch.float32 and output.shape == (5, encoder.dim) == (5, 32)
    torch.testing.assert_close(output.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(output.double(), F.normalize(expected), rtol=0, atol=1e-5)
    # The frames themselves must differ, or the line above would prove nothing.
    assert F.cosine_similarity(expected[:1], expected[1:]).min() < 0.99
    assert encoder.encode_frames(frames[:0]).shape == (0, 32)


def test_timm_encoder_loads_late_and_moves(vit, make_video):
    lazy = LazyEncoder(f"timm:{vit}")
    assert not lazy.loaded
    full = lazy.encode_frames(make_video(3))
    half = lazy.to(dtype=torch.bfloat16).encode_frames(make_video(3))
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert F.cosine_similarity(half, full).min() > 0.99
    assert lazy.dim == 32


def test_timm_encoder_knows_no_text(vit):
    with pytest.raises(ValueError, match=r"embeds frames only.*'open_clip:MODEL/TAG', 'hf:NAME'"):
        load_encoder(f"timm:{vit}").encode_text("a red car")


def test_what_timm_cannot_load_is_explained(vit, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="none of the allowed forms(.|\n)*timm:NAME, frames only"):
        LazyEncoder("timm:")
    with pytest.raises(ValueError, match="timm:/no/such'.*there is no such folder"):
        load_encoder("timm:/no/such")
    with pytest.raises(ValueError, match="no published weights of 'vit_smal_patch14_dinov2'.*vit_"):
        load_encoder("timm:vit_smal_patch14_dinov2")
    shutil.copy(vit / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="lacks model.safetensors; weights are read from safet"):
        load_encoder(f"timm:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot build the model from config.json and model.saf"):
        load_encoder(f"timm:{tmp_path}")
    vtc.testing.save_tiny_timm(tmp_path, dim=64)
    shutil.copy(vit / "config.json", tmp_path)
    with pytest.raises(ValueError, match="cannot build the model"):
        load_encoder(f"timm:{tmp_path}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(OSError, match="(?s)'timm/vit_small_patch14_dinov2.lvd142m'.*timm:FOLDER"):
        load_encoder("timm:vit_small_patch14_dinov2.lvd142m")


def test_a_name_is_loaded_from_the_files_of_the_hub(vit, monkeypatch, make_video):
    downloads = []

    def download(repository, name, local_files_only=False):
        downloads.append((repository, name))
        return str(vit / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    encoder = load_encoder("timm:vit_small_patch14_dinov2.lvd142m")
    repository = "timm/vit_small_patch14_dinov2.lvd142m"
    assert downloads == [(repository, "config.json"), (repository, "model.safetensors")]
    expected = load_encoder(f"timm:{vit}").encode_frames(make_video(2))
    assert torch.equal(encoder.encode_frames(make_video(2)), expected)


@pytest.mark.filterwarnings("ignore:.*every frame is a keyframe")
def test_a_selector_looks_through_its_own_encoder(
    model, processor, encoder, vit, make_video, make_inputs, tmp_path
):
    selector = vtc.selector("dino_diff", keyframes=3, window=4, encoder=f"timm:{vit}")
    vtc.wrap(model, selector, "mean_pool", processor=processor, encoder="hf:never/loaded")
    assert not model.vtc.selector_encoder.loaded
    video = make_video(12)
    inputs = make_inputs([video], ["What is it?"])
    with torch.no_grad():
        logits = model(**inputs).logits
    assert model.vtc.selector_encoder.loaded and not model.vtc.encoder.loaded
    assert model.vtc.selector_encoder is model.vtc.selector_encoder
    answer = vtc.ask(model, processor, video, "What is it?", max_new_tokens=1)
    expected = selector.select(load_encoder(f"timm:{vit}").encode_frames(video))
    assert [frame.index for frame in answer.report.keyframes] == expected.keyframes.tolist()
    relevance = [frame.relevance for frame in answer.report.keyframes]
    assert relevance == pytest.approx(expected.relevance[expected.keyframes].tolist(), abs=1e-5)
    vtc.save_pretrained(model, tmp_path)
    loaded = vtc.from_pretrained(tmp_path, processor=processor)
    assert loaded.vtc.selector.encoder == f"timm:{vit}"
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, logits)
    # Another selector looks through the encoder of wrap again.
    loaded.vtc.encoder = LazyEncoder(encoder)
    loaded.vtc.selector = vtc.selector("dks", keyframes=3)
    assert loaded.vtc.selector_encoder is loaded.vtc.encoder


def test_vtc_select_looks_through_it_too(vit, tmp_path, capfd):
    from vtc.cli import app

    file = tmp_path / "video.mp4"
    vtc.testing.write_video(file, vtc.testing.moving_squares(seconds=12))
    words = ["select", str(file), "--selector", "dino_diff", "--keyframes", "4", "--json"]
    with pytest.raises(SystemExit) as stop:
        app([*words, "-s", f"encoder=timm:{vit}", "--encoder", "hf:never/loaded"], prog_name="vtc")
    assert not stop.value.code
    output = json.loads(capfd.readouterr().out)
    frames = vtc.VideoSource(str(file), fps=1.0).frames(list(range(12)))
    selector = vtc.selector("dino_diff", keyframes=4)
    expected = selector.select(load_encoder(f"timm:{vit}").encode_frames(frames)).keyframes
    assert [frame["index"] for frame in output["keyframes"]] == expected.tolist()
    assert output["selector"]["encoder"] == f"timm:{vit}"


def test_an_encoder_that_is_none_is_refused_before_the_model_changes(model):
    stock = type(model)
    with pytest.raises(ValueError, match="encoder='vit' has none of the allowed forms"):
        vtc.wrap(model, vtc.selector("dino_diff", encoder="vit"))
    assert type(model) is stock and not hasattr(model, "vtc")


def test_the_same_encoder_is_shared(model, processor, vit):
    selector = vtc.selector("dino_diff", encoder=f"timm:{vit}")
    vtc.wrap(model, selector, "mean_pool", processor=processor, encoder=f"timm:{vit}")
    assert model.vtc.selector_encoder is model.vtc.encoder
