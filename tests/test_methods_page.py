"""``vtc parts --markdown``, and docs/methods.md, which holds what it prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vtc
from vtc.interfaces.costs import SIZES

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^<!-- vtc (parts .*?) -->\n(.*?)^<!-- end -->$", PAGE, flags=re.S | re.M)

ACME = '''
from typing import Literal

from dataclasses import dataclass

import vtc


class First(vtc.FrameSelector):
    """Takes the first frame."""

    source = "Left | Right"
    uses_query = False

    def select(self, embeddings, query=None, timestamps=None):
        raise NotImplementedError


class Costly(vtc.TokenMerger):
    """Costs something."""

    extra_memory = "depth * M"
    macs = "M * unheard_of"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        depth: int = 3
        form: Literal["plain", "plain too", "free"] = "plain"

    def __init__(self, config=None):
        super().__init__(config)
        if self.config.form == "free":
            self.extra_memory = "0"

    def forward(self, patches, reference, has_reference, query):
        raise NotImplementedError


@vtc.hookimpl
def vtc_register_selectors():
    return {"first": First, "lost": "acme:Lost"}


@vtc.hookimpl
def vtc_register_mergers():
    return {"costly": Costly}
'''


def run_vtc(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vtc.cli", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def site(tmp_path):
    """The path of modules with a plug-in ``acme`` on it."""
    info = tmp_path / "acme_vtc-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-vtc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtc]\nacme = acme\n")
    (tmp_path / "acme.py").write_text(ACME)
    return os.pathsep.join([str(tmp_path), *(os.path.abspath(path) for path in sys.path if path)])


@pytest.mark.parametrize(("command", "shown"), BLOCKS)
def test_the_page_holds_what_the_command_prints(command, shown):
    # Plug-ins that happen to be installed here are not on the page.
    others = {p.plugin for p in vtc.parts() if p.distribution != "video-token-compression"}
    done = run_vtc(*shlex.split(command), VTC_DISABLED_PLUGINS=",".join(others))
    assert (done.stdout, done.stderr) == (shown, "")


def test_the_page_has_all_parts_with_and_without_numbers():
    (all_parts, symbolic), (mergers, numbers) = BLOCKS
    assert (all_parts, "--at M=729,D=3584" in mergers) == ("parts --markdown", True)
    for part in (*vtc.parts("selector"), *vtc.parts("merger")):
        if part.distribution == "video-token-compression":
            assert f"\n| `{part.name}` |" in symbolic
            assert (f"\n| `{part.name}` |" in numbers) == (part.kind == "merger")
    assert "not said" not in PAGE


def test_the_page_explains_all_symbols():
    rows = re.findall(r"^\| (`.*?) \| ", PAGE.partition("## Reading")[2], flags=re.M)
    explained = {symbol for row in rows for symbol in re.findall(r"`(\w+)`", row)}
    assert {*SIZES, "K", "T"} <= explained


def test_parts_of_others_stand_in_the_tables(site):
    done = run_vtc("parts", "--markdown", PYTHONPATH=site)
    lines = done.stdout.splitlines()
    assert r"| `first` | Left \| Right | no | yes | no | not said | not said |" in lines
    costly = "| not said | yes | no | 1 | `M * unheard_of` |"
    assert f"| `costly` {costly} `depth * M` |" in lines
    assert f'| `costly`, `form="free"` {costly} `0` |' in lines
    assert sum("`costly`" in line for line in lines) == 2  # "plain too" changes nothing
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("vtc: warning: selector 'lost' is left out: ")


@pytest.fixture
def command(capfd):
    """Run ``vtc parts ...`` in this process; gives exit code, output and error output."""
    from vtc.cli import app

    def run(words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            app(["parts", *words.split()], prog_name="vtc")
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def test_numbers_have_three_digits(command):
    code, out, err = command("selector --markdown --at N=1000,d=8")
    assert (code, err) == (0, "")
    by_name = {row.split("`")[1]: row.split(" | ")[-2:] for row in out.splitlines()[2:]}
    assert by_name["uniform"] == ["0", "0 |"]
    assert by_name["dks"] == ["288", "10.7 k |"]  # 36 x 8; 832 x 8 + 4000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("merger --markdown --at M=9", "merger 'dfm', macs: '6 * M * D': D has no value; those"),
        ("selector --markdown --at M=9", "selector 'aks', macs: '2.5 * d': d has no value"),
        ("--markdown --at M=9,nine", "--at M=9,nine: 'nine' is no size; write NAME=NUMBER"),
        ("--markdown --at Q=9", "'Q' is no size; allowed are N (frames of the video), d"),
        ("adapter --markdown", "--markdown has tables of selector and merger only, not of adapter"),
        ("--markdown --json", "--json and --markdown are two forms of one list; choose one"),
        ("--at M=9", "--at M=9 gives sizes for the tables of --markdown; write both"),
    ],
)
def test_errors_say_what_to_do(command, words, message):
    code, out, err = command(words)
    assert (code, out) == (1, "")
    assert f"vtc: error: {message}" in err
