"""What commands write: the result alone, in any locale, and without control characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_vtc

import vtc
from vtc.cli.output import printable

PLUGIN = '''
import atexit, ctypes, os, subprocess, sys
import torch, vtc
from vtc.interfaces.frame_selector import FrameSelector, Selection

def shout(where):
    print("noise of", where)
    os.write(1, b"noise of the descriptor\\n")
    subprocess.run([sys.executable, "-c", "print('noise of a process')"], check=True)
    ctypes.CDLL(None).puts(b"noise of C")
    ctypes.CDLL(None).fflush(None)

shout("the import")
atexit.register(print, "noise at exit")

class Noisy(FrameSelector):
    """Takes the first frame."""
    uses_query = uses_embeddings = False
    def __init__(self, config=None):
        super().__init__(config)
        shout("__init__")
    def select(self, embeddings, query=None, timestamps=None):
        shout("select")
        return Selection(torch.tensor([0]), None)

@vtc.hookimpl
def vtc_register_selectors():
    shout("the hook")
    return {"noisy": Noisy}

@vtc.hookimpl
def vtc_register_commands():
    return {"own": "noisy:own"}

def own(json: bool = False) -> None:
    print('{"own": true}')
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with an installed plug-in that prints wherever it can, and a video."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "noisy_vtc-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy-vtc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtc]\nnoisy = noisy\n")
    (folder / "noisy.py").write_text(PLUGIN)
    vtc.testing.write_video(folder / "video.mp4", vtc.testing.moving_squares(seconds=2))
    return folder


def run(site: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    paths = os.pathsep.join([str(site), *(os.path.abspath(path) for path in sys.path if path)])
    return subprocess.run(
        [sys.executable, "-c", "import vtc.cli; vtc.cli.main()", *map(str, words)],
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": paths, **environment},
        capture_output=True,
    )


def run_forked(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command where torch is imported already; its output is UTF-8."""
    return run_vtc(*words, PYTHONPATH=str(site), NO_COLOR="1")


@pytest.mark.parametrize(
    "words", [("select", "video.mp4", "--selector", "noisy"), ("parts", "selector")]
)
def test_with_json_stdout_holds_the_result_whatever_a_plug_in_prints(site, words):
    words = [site / word if word == "video.mp4" else word for word in words]
    ended = run_forked(site, *words, "--json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    if words[0] == "select":
        assert [frame["index"] for frame in result["keyframes"]] == [0]
        for where in ("select", "the descriptor", "a process", "C", "__init__"):
            assert f"noise of {where}" in ended.stderr
        assert "noise at exit" in ended.stderr
    else:
        assert "noisy" in {part["name"] for part in result}


def test_with_json_an_error_leaves_stdout_empty(site):
    ended = run_forked(
        site, "select", site / "video.mp4", "-s", "x=1", "--selector", "noisy", "--json"
    )
    assert ended.returncode == 1 and ended.stdout == ""
    assert "vtc: error: " in ended.stderr


def test_a_command_of_a_plug_in_prints_its_json_to_stdout(site):
    assert json.loads(run_forked(site, "own", "--json").stdout) == {"own": True}


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
def test_a_narrow_encoding_loses_no_result(site, tmp_path, locale):
    video = tmp_path / "vidéo – 東京.mp4"
    video.write_bytes((site / "video.mp4").read_bytes())
    ended = run(site, "select", video, "--selector", "uniform", **locale)
    assert ended.returncode == 0, ended.stderr
    assert b"frames of vid" in ended.stdout and b"Traceback" not in ended.stderr
    ended = run(site, "select", tmp_path / "東.mp4", **locale)
    assert ended.returncode == 1 and b"there is no such file" in ended.stderr


@pytest.mark.parametrize(("closed", "more"), [(1, ("--json",)), (2, ())])
def test_a_closed_stream_is_no_error(site, closed, more):
    """Python has None in its place."""
    words = ["parts", "selector", *more]
    command = [sys.executable, "-c", "import vtc.cli; vtc.cli.main()", *words]
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    script = f'exec "$@" {closed}>&-'
    ended = subprocess.run(
        ["sh", "-c", script, "sh", *command],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
    )
    assert ended.returncode == 0 and b"Traceback" not in ended.stderr
    assert bool(ended.stdout) == (closed == 2)


def test_a_file_name_that_is_no_text_is_read(site, tmp_path):
    video = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    with open(video, "wb") as file:
        file.write((site / "video.mp4").read_bytes())
    for more in ((), ("--json",)):
        ended = run(site, "select", os.fsdecode(video), "--selector", "uniform", *more)
        assert ended.returncode == 0, ended.stderr
        assert b"caf" in ended.stdout
        assert not more or json.loads(ended.stdout)["frames"] == 2


EVIL = "a\x1b[2J\x07\x9b31m\u202e[bold].mp4"


def test_control_characters_of_a_file_name_are_escaped(site, tmp_path):
    (tmp_path / EVIL).write_bytes((site / "video.mp4").read_bytes())
    (tmp_path / f"no{EVIL}").write_text("no video")
    shown = run_forked(site, "select", tmp_path / EVIL, "--selector", "uniform")
    refused = run_forked(site, "select", tmp_path / f"no{EVIL}")
    missing = run_forked(site, "select", tmp_path / f"missing{EVIL}")
    assert (shown.returncode, refused.returncode, missing.returncode) == (0, 1, 1)
    for text in (shown.stdout, refused.stderr, missing.stderr):
        assert r"a\x1b[2J\x07\x9b31m\u202e" in text.replace("\n", "")
        assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_text_is_escaped_once_and_otherwise_kept():
    assert printable("naïve 東京 😀\n\ttab") == "naïve 東京 😀\n\ttab"
    once = printable("\x1b[0m\r\x00")
    assert once == r"\x1b[0m\r\x00" and printable(once) == once
