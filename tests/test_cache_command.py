"""``vtc index`` and ``vtc cache``, and the option ``--cache`` of the other commands."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

import vtc
from vtc.cache.folder import CacheFolder
from vtc.cache.sizes import size_text
from vtc.cli.cache import read_size

ALL_KINDS = ("frame embeddings", "encoder patches", "merged tokens", "vision tower output")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    vtc.testing.write_video(path, vtc.testing.moving_squares(seconds=6))
    return path


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor = vtc.testing.tiny("qwen2_vl")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_an_indexed_video_is_not_read_again_by_select(command, file, clip_folder, tmp_path):
    options = ("--cache", tmp_path / "c", "--encoder", clip_folder)
    code, out, _ = command("index", file, *options)
    assert code == 0 and "6 frames: frame embeddings computed and stored" in out
    code, out, _ = command("index", file, *options)
    assert code == 0 and "6 frames: frame embeddings already in the cache" in out
    _, out, _ = command("select", file, "a square", *options)
    assert "cache: frame embeddings read from the cache" in out
    _, out, _ = command("select", file, "a square", *options, "--fps", 2, "--json")
    [use] = json.loads(out)["cache"]
    assert not use["hit"] and "fps=1.0 instead of 2.0" in use["note"]


def test_an_index_for_a_model_is_read_by_ask(command, file, clip_folder, model_folder, tmp_path):
    options = ("--model", model_folder, "--cache", tmp_path, "--encoder", clip_folder)
    command("index", file, *options)
    _, out, _ = command("ask", file, "Where?", *options, "--max-new-tokens", 1)
    assert "frame embeddings read from the cache" in out
    _, out, _ = command("ask", file, "Where?", *options, "--max-new-tokens", 1, "--json")
    assert json.loads(out)["report"]["videos"][0]["cache"][0]["hit"]


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        (("--merger", "mean_pool"), ["frame embeddings", "merged tokens"]),
        (("--cache-tower",), ["frame embeddings", "vision tower output"]),
        (
            ("--selector", "uniform", "--merger", "mean_pool", "--cache-tower"),
            ["merged tokens", "vision tower output"],
        ),
    ],
)
def test_an_index_holds_what_the_parts_need(
    command, file, clip_folder, model_folder, tmp_path, parts, kinds
):
    options = ("--model", model_folder, "--cache", tmp_path, "--encoder", clip_folder, *parts)
    options += ("--keyframes", 1)
    keeps_tower = "--cache-tower" in parts
    says_size = pytest.warns(UserWarning, match="the vision tower's output of 3 slices takes")
    with says_size if keeps_tower else nullcontext():
        code, out, _ = command("index", file, *options)
    assert code == 0 and [kind for kind in ALL_KINDS if f"{kind} computed" in out] == kinds
    _, out, _ = command("index", file, *options, "--json")
    rows = json.loads(out)["videos"][0]["cache"]
    assert [(row["kind"], row["hit"]) for row in rows] == [(kind, True) for kind in kinds]
    _, out, _ = command("ask", file, "Where?", *options, "--max-new-tokens", 1, "--json")
    [video] = json.loads(out)["report"]["videos"]
    assert [(row["kind"], row["hit"]) for row in video["cache"]] == [(kind, True) for kind in kinds]
    assert video["decoded"] == (0 if keeps_tower else 2)


def test_an_index_for_encoder_patches_leaves_the_keyframes(command, file, clip_folder, tmp_path):
    folder = tmp_path / "model"
    model, processor = vtc.testing.tiny("llava_onevision")
    vtc.wrap(model, "dks", "dfm", processor=processor, encoder=str(clip_folder))
    with pytest.warns(UserWarning, match="untrained"):
        model.vtc.merge_encoder_patches()
        vtc.save_pretrained(model, folder)
    processor.save_pretrained(folder)
    options = ("--model", folder, "--cache", tmp_path / "c")
    _, out, _ = command("index", file, *options)
    assert "encoder patches computed and stored" in out
    options += ("--keyframes", 1, "--max-new-tokens", 1, "--json")
    _, out, _ = command("ask", file, "Where?", *options)
    [video] = json.loads(out)["report"]["videos"]
    assert video["cache"][0]["hit"] and video["decoded"] == 1


def test_a_full_cache_ends_an_index_for_a_model(command, file, clip_folder, model_folder, tmp_path):
    CacheFolder(tmp_path).set_limit(500)
    options = ("--model", model_folder, "--cache", tmp_path, "--encoder", clip_folder)
    code, _, err = command("index", file, *options, "--cache-tower")
    assert code == 1 and "set its limit with vtc cache --limit" in err


def test_a_broken_video_does_not_stop_the_others(command, file, clip_folder, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    options = ("--cache", tmp_path / "c", "--encoder", clip_folder)
    code, out, err = command("index", broken, file, *options)
    assert code == 1
    assert "6 frames: frame embeddings computed" in out and "broken.mp4: not a video" in err
    code, out, _ = command("index", broken, file, *options, "--json")
    rows = json.loads(out)["videos"]
    assert code == 1 and "not a video" in rows[0]["error"]
    assert rows[1]["cache"][0]["hit"] and rows[1]["error"] is None


def test_entries_are_listed_and_cleared(command, file, clip_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VTC_CACHE", str(tmp_path))
    code, out, _ = command("cache")
    assert code == 0 and "0 entries" in out and "of at most 20 GB" in out
    command("index", file, "--encoder", clip_folder, "--fps", 2)
    _, out, _ = command("cache", "--list")
    assert "1 entry" in out and "squares.mp4" in out and "fps=2.0" in out
    _, out, _ = command("cache", "--json")
    [entry] = json.loads(out)["entries"]
    assert entry["video"] == "squares.mp4" and entry["kind"] == "frame embeddings"
    _, out, _ = command("cache", "--limit", "1.5GB")
    assert "of at most 1.5 GB" in out
    _, out, _ = command("cache", "--clear", "--json")
    assert json.loads(out)["removed"] == 1
    _, out, _ = command("cache")
    assert "0 entries" in out and "of at most 1.5 GB" in out


def test_wrong_options_are_refused(command, file, tmp_path):
    code, _, err = command("cache", "--cache", tmp_path, "--limit", "much")
    assert code == 1 and "expected --limit to be a size such as 500MB or 50GB, got 'much'" in err
    code, _, err = command("cache", "--cache", tmp_path, "--clear", "--list")
    assert code == 1 and "expected --clear alone" in err
    code, _, err = command("cache", "--cache", file)
    assert code == 1 and "expected cache to be a folder, got the file" in err
    code, _, err = command("index", file, "--cache-tower", "--merger", "mean_pool")
    assert code == 1 and "expected --model with --merger, --cache-tower, got none" in err
    for words in (("ask", file, "Where?"), ("batch", file, "--out", tmp_path / "out.jsonl")):
        code, _, err = command(*words, "--cache-tower")
        assert code == 1 and "expected --cache DIR with --cache-tower, got none" in err


def test_sizes_are_read_and_written():
    assert read_size("0.5 TB") == 500 * 10**9
    assert [size_text(size) for size in (0, 999, 1234, 20 * 10**9)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "20 GB",
    ]
