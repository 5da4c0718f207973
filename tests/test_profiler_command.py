"""``vtc profile`` as a user runs it."""

from __future__ import annotations

import json

import pytest
import torch

import vtc
from vtc.profiler.setup import Settings, count_profile
from vtc.profiler.stages import CONNECTOR, MERGING, STAGES


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model, processor = vtc.testing.tiny()
    model.save_pretrained(folder / "vlm")
    processor.save_pretrained(folder / "vlm")
    vtc.testing.save_tiny_clip(folder / "clip")
    return folder


def test_the_command_counts_a_folder(command, folders):
    words = (
        "profile",
        folders / "vlm",
        "--encoder",
        folders / "clip",
        "--frames",
        "9,50",
        "--json",
    )
    code, out, _ = command(*words, "--keyframes", 4)
    found = json.loads(out)
    assert code == 0 and [each["frames"] for each in found["lengths"]] == [9, 50]
    assert found["device"] == "meta" and found["selector"]["keyframes"] == 4
    last = found["lengths"][1]
    assert [stage["name"] for stage in last["stages"]] == list(STAGES)
    assert last["first_token"]["tokens"] == 4 * 4 + 46 + 1 + 64
    assert last["first_token"]["seconds"] is None
    assert last["first_token"]["macs"] > last["first_token"]["linear_macs"] > 0
    assert last["fast_path"]["flops"] < last["first_token"]["flops"]
    code, out, _ = command(*words, "--keyframes", 4, "--fast-path")
    fast = json.loads(out)["lengths"][1]
    assert code == 0 and fast["stages"][4]["name"] == CONNECTOR
    assert fast["first_token"]["flops"] == last["fast_path"]["flops"]


def test_other_mergers_are_counted_beside(command, folders, tmp_path):
    words = ("profile", folders / "vlm", "--frames", "12", "--selector", "uniform")
    words += ("--beside", "hico", "--beside", "llama_vid", "--keyframes", 4)
    code, out, err = command(*words, "--plots", tmp_path / "plots")
    assert code == 0, err
    rows = {line.split()[3]: line.split() for line in out.splitlines() if " + " in line[:40]}
    assert rows["dfm"][4] == str(4 * 4 + 8 + 1 + 64)
    assert rows["llama_vid"][4] == str(12 * 2 + 1 + 64) and rows["llama_vid"][1] == "none"
    assert rows["hico"][4] == str(12 * 9 + 1 + 64)  # clips of 36 patches keep all
    code, _, err = command(*words, "--device", "cpu")
    assert code == 1 and "--beside compares counts" in err


@pytest.mark.slow
def test_the_command_measures_and_draws(command, folders, tmp_path):
    file = tmp_path / "video.mp4"
    vtc.testing.write_video(file, vtc.testing.moving_squares(seconds=4))
    words = ("profile", folders / "vlm", "--encoder", folders / "clip", "--device", "cpu")
    code, out, err = command(
        *words, "--frames", "12,24", "--video", file, "--plots", tmp_path / "plots"
    )
    assert code == 0, err
    for text in (
        "float32 on cpu",
        "24 frames",
        "TTFT s",
        "(non-keyframes)",
        "seen",
        "Rate:",
    ):
        assert text in out
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"memory.png", "flops.png", "stages.png", "first_token.png"}
    code, out, _ = command(*words, "--frames", "12", "--fast-path", "--json")
    found = json.loads(out)
    (decoding, *others), connector = found["lengths"][0]["stages"], found["lengths"][0]["stages"][4]
    assert code == 0 and connector["name"] == CONNECTOR
    assert decoding["seconds"] > 0 and decoding["rate"] is None
    for stage in others:
        assert stage["rate"] == stage["flops"] / stage["seconds"] > 0
    assert found["matrix_rate"] > 0
    code, out, _ = command(*words, "--frames", "12", "--video", file, "--json")
    source = vtc.VideoSource(file)
    first = json.loads(out)["lengths"][0]["stages"][0]  # counted at the size of the file's frames
    assert first["bytes_moved"] == 2 * 12 * 3 * source.height * source.width
    assert first["seconds"] > 0
    code, _, err = command(*words, "--frames", "12,500", "--video", file)
    assert code == 1 and "expected a video of at least 500 frames, got 40" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llava-onevision-8b"], "Did you mean 'llava-onevision-7b'"),
        (
            ["llava-onevision-7b", "--frames", "ten"],
            "expected --frames to be whole numbers with commas",
        ),
        (["llava-onevision-7b", "--frames", "64,0"], "expected frames to be numbers >= 1"),
        (["llava-onevision-7b", "--size", "640"], "expected --size to be WIDTHxHEIGHT"),
        (["llava-onevision-7b", "--video", "a.mp4"], "--video is read where the model runs"),
        (["llava-onevision-7b", "--selector", "dk"], "unknown selector 'dk'"),
        (["llava-onevision-7b", "--dtype", "int8"], "expected dtype to be auto, float32"),
        (["llava-onevision-7b", "--encoder", "nothing"], "has none of the allowed forms"),
        (["llava-onevision-7b", "--chunk-slices", "0"], "expected chunk >= 1, got 0"),
        (
            ["llava-onevision-7b", "--prefill-chunk", "-1"],
            "expected prefill_chunk to be None or >= 1, got -1",
        ),
        (["llava-onevision-7b", "--device", "abacus"], "cannot use device='abacus' here"),
        (["llava-onevision-7b", "--device", "cpu", "--video", "no.mp4"], "no.mp4"),
    ],
)
def test_errors_say_what_to_do(command, words, message):
    code, out, err = command("profile", *words)
    assert code == 1 and not out
    assert message in " ".join(err.split())


def test_no_room_for_the_weights(command, monkeypatch):
    import os

    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 10 if name == "SC_AVPHYS_PAGES" else real(name))
    code, _, err = command("profile", "llava-onevision-7b", "--device", "cpu")
    assert code == 1 and "the weights of llava-onevision-7b take 32.1 GB" in err
    assert "--device meta" in err


def test_plots_need_matplotlib(command, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = command("profile", "llava-onevision-7b", "--plots", tmp_path / "plots")
    assert code == 1 and "pip install 'video-token-compression[plots]'" in err


@pytest.mark.parametrize("options", [{}, {"normalise_query": False}], ids=["scaled", "raw"])
@pytest.mark.parametrize("selector", ["uniform", "dks"])
def test_a_merger_that_asks_the_frame_encoder_is_counted_with_any_selector(selector, options):
    merger = vtc.merger("dfm", projection="learned", **options)
    model, processor = vtc.testing.tiny()
    width, patches = model.get_input_embeddings().weight.shape[1], 9
    found = count_profile(
        "tiny",
        model.config,
        processor,
        Settings(frames=[4]),
        selector=vtc.selector(selector, keyframes=2),
        merger=merger,
        encoder="open_clip:ViT-B-32/openai",
        dtype=torch.bfloat16,
    )
    [length] = found.lengths
    [merging] = [stage for stage in length.stages if stage.name == MERGING]
    assert (
        merging.flops >= 2 * 2 * patches * 2 * width**2
    )  # two frames, each patch through two maps
