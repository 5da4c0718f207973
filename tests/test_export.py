"""Keyframes for other programs: chat messages, and the video loader of vLLM."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import vtc
from vtc.export.chat import frame_numbers, openai_request
from vtc.export.vllm_loader import load_keyframes, register


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    file = tmp_path_factory.mktemp("film") / "squares.mp4"
    vtc.testing.write_video(file, vtc.testing.moving_squares(seconds=12))
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    vtc.testing.save_tiny_clip(folder)
    return str(folder)


def decoded(jpeg: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(jpeg, validate=True))) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture).astype(float)


def selected(command, film, clip, form: str) -> tuple[dict, list[dict], str]:
    """What a format prints, the keyframes as JSON lists them, and the error stream."""
    words = ("select", film, "a red square", "--encoder", clip, "--keyframes", 4, "--format")
    _, out, _ = command(*words, "json")
    keyframes = json.loads(out)["keyframes"]
    code, out, err = command(*words, form)
    assert code == 0 and len(keyframes) > 1, err
    return json.loads(out), keyframes, err


def test_the_openai_format_alternates_times_and_pictures(command, film, clip):
    request, keyframes, err = selected(command, film, clip, "openai")
    [message] = request["messages"]
    *parts, question = message["content"]
    assert message["role"] == "user" and question == {"type": "text", "text": "a red square"}
    assert [part["type"] for part in parts] == ["text", "image_url"] * len(keyframes)
    frames = vtc.VideoSource(film).frames([keyframe["index"] for keyframe in keyframes])
    for keyframe, frame, text, picture in zip(
        keyframes, frames, parts[::2], parts[1::2], strict=True
    ):
        assert text["text"] == f"[0:{keyframe['timestamp']:02.0f}]"
        head, _, jpeg = picture["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert np.abs(decoded(jpeg) - frame).mean() < 5
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    assert f"{len(keyframes)} pictures of {size}, 0.1 MB" in err


def test_the_vllm_format_is_one_video_that_says_where_its_frames_were(command, film, clip):
    request, keyframes, _ = selected(command, film, clip, "vllm")
    [message] = request["messages"]
    video, question = message["content"]
    assert video["type"] == "video_url" and question["text"] == "a red square"
    head, *pictures = video["video_url"]["url"].split(",")
    assert head == "data:video/jpeg;base64" and len(pictures) == len(keyframes)
    assert len({decoded(jpeg).shape for jpeg in pictures}) == 1
    numbers, info = request["media_io_kwargs"]["video"], vtc.VideoSource(film).info
    assert numbers["total_num_frames"] == info.frame_count and numbers["duration"] == info.duration
    assert [n / numbers["fps"] for n in numbers["frames_indices"]] == pytest.approx(
        [keyframe["timestamp"] for keyframe in keyframes], abs=0.5 / info.native_fps
    )


def test_frame_numbers_stay_in_the_file():
    source = vtc.VideoSource(np.zeros((5, 4, 4, 3), dtype=np.uint8), fps=2.0)
    assert frame_numbers(source, [0, 4]) == {
        "fps": 2.0,
        "frames_indices": [0, 4],
        "total_num_frames": 5,
        "duration": 2.5,
    }


def test_times_less_than_a_second_apart_differ():
    source = vtc.VideoSource(np.zeros((5, 4, 4, 3), dtype=np.uint8), fps=4.0)
    parts = openai_request(source, [0, 1], None)["messages"][0]["content"]
    assert [part["text"] for part in parts[::2]] == ["[0:00.0]", "[0:00.2]"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--json", "--format", "openai"), "expected --json or --format openai, got both"),
        (("--format", "xml"), "'xml' is not one of"),
        (("--format", "openai", "-s", "relevance_threshold=1"), "there is nothing to write"),
    ],
)
def test_a_format_that_cannot_be_written_is_refused(command, film, clip, words, message):
    code, out, err = command("select", film, "x", "--encoder", clip, *words)
    assert code != 0 and not out and message in " ".join(err.split())


# vLLM


class Registry(dict):
    """As much of vLLM's registry as a loader touches."""

    def register(self, name: str):
        return lambda loader: self.setdefault(name, loader)


@pytest.fixture
def loaders(monkeypatch) -> Registry:
    registry, module = Registry(), ModuleType("vllm.multimodal.video")
    module.VIDEO_LOADER_REGISTRY, module.VideoLoader = registry, type("VideoLoader", (), {})
    for name in ("vllm", "vllm.multimodal"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.multimodal.video", module)
    return registry


def test_vllm_finds_the_loader_by_its_entry_point(loaders):
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    [group] = re.findall(r'^\[project.entry-points."vllm.general_plugins"\]\n(.+)$', project, re.M)
    name, value = group.replace('"', "").split(" = ")
    EntryPoint(name, value, "vllm.general_plugins").load()()
    assert list(loaders) == ["vtc"]


def test_the_loader_gives_the_keyframes_that_select_gives(loaders, command, film, clip):
    register()
    loader = loaders["vtc"]
    frames, metadata = loader.load_bytes(
        film.read_bytes(), num_frames=4, query="a red square", encoder=clip, max_duration=300
    )
    request, keyframes, _ = selected(command, film, clip, "vllm")
    source = vtc.VideoSource(film)
    indices = [keyframe["index"] for keyframe in keyframes]
    assert (frames == source.frames(indices)).all() and frames.dtype == np.uint8
    assert metadata == {
        **request["media_io_kwargs"]["video"],
        "video_backend": "vtc",
        "do_sample_frames": False,
    }


def test_the_loader_needs_a_query_and_a_video(film, clip):
    with pytest.raises(ValueError, match="selector 'dks' needs a query"):
        load_keyframes(film.read_bytes(), encoder=clip)
    with pytest.raises(vtc.VideoError):
        load_keyframes(b"no video", query="x", encoder=clip)
    frames, _ = load_keyframes(film.read_bytes(), 3, selector="uniform")
    assert len(frames) == 3


def test_the_loader_opens_its_encoder_once(film, clip, monkeypatch):
    from vtc.encoders import lazy

    made = []
    monkeypatch.setattr(
        lazy, "LazyEncoder", lambda *a, **k: made.append(a) or vtc.testing.tiny_encoder()
    )
    for query in ("x", "y"):
        load_keyframes(film.read_bytes(), 3, query=query, encoder="once")
    assert made == [("once",)]
