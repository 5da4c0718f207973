"""``vtc parts --markdown``, and docs/methods.md, which holds what it prints."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from forked import run_vtc

import vtc
from vtc.interfaces.costs import Sizes

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

    @dataclass(frozen=True, kw_only=True)
    class Config:
        depth: int = 3
        form: Literal["plain", "plain too", "free"] = "plain"

    def extra_memory(self, sizes):
        return 0 if self.config.form == "free" else self.config.depth * sizes.M

    def forward(self, patches, reference, has_reference, query):
        raise NotImplementedError


@vtc.hookimpl
def vtc_register_selectors():
    return {"first": First, "lost": "acme:Lost"}


@vtc.hookimpl
def vtc_register_mergers():
    return {"costly": Costly}
'''


@pytest.fixture
def site(tmp_path):
    """The path of modules with a plug-in ``acme`` on it."""
    info = tmp_path / "acme_vtc-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-vtc\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vtc]\nacme = acme\n")
    (tmp_path / "acme.py").write_text(ACME)
    return str(tmp_path)


@pytest.mark.parametrize(("command", "output"), BLOCKS)
def test_the_page_holds_what_the_command_prints(command, output):
    # Plug-ins that happen to be installed here are not on the page.
    others = {p.plugin for p in vtc.parts() if p.distribution != "video-token-compression"}
    done = run_vtc(*shlex.split(command), VTC_DISABLED_PLUGINS=",".join(others))
    assert (done.stdout, done.stderr) == (output, "")


def test_the_page_lists_all_shipped_parts_with_their_costs():
    ((command, output),) = BLOCKS
    assert command == "parts --markdown" and "not given" not in PAGE
    for part in (*vtc.parts("selector"), *vtc.parts("merger")):
        if part.distribution == "video-token-compression":
            assert f"\n| `{part.name}` |" in output


def test_the_page_explains_all_sizes_with_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([\d,]+)", PAGE.partition("## Reading")[2], flags=re.M)
    sizes = {name: float(value.replace(",", "")) for name, value in rows}
    assert sizes == {size.name: size.default for size in fields(Sizes)}


def test_parts_of_others_stand_in_the_tables(site):
    done = run_vtc("parts", "--markdown", PYTHONPATH=site)
    lines = done.stdout.splitlines()
    assert r"| `first` | Left \| Right | no | yes | no | not given | not given |" in lines
    costly = "| not given | yes | no | 1 | not given |"
    assert f"| `costly` {costly} 2.19 k |" in lines
    assert f'| `costly`, `form="free"` {costly} 0 |' in lines
    assert sum("`costly`" in line for line in lines) == 2  # "plain too" changes nothing
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("vtc: warning: selector 'lost' is skipped: ")


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
    assert by_name["dks"] == ["288", "10.4 k |"]  # 36 x 8; 288 x 8 + 4096 + 4000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--markdown --at M=9,D=nine", "--at M=9,D=nine: expected NAME=NUMBER, got 'D=nine'"),
        ("--markdown --at Q=9", "--at Q=9: expected one of N (frames of the video), d (width of"),
        ("--markdown --at M=-9", "expected M to be a number above 0, got -9.0"),
        ("adapter --markdown", "--markdown lists selectors and mergers, got adapter"),
        ("--markdown --json", "expected --json or --markdown, got both"),
        ("--at M=9", "--at M=9 needs --markdown"),
    ],
)
def test_errors_say_what_to_do(command, words, message):
    code, out, err = command(words)
    assert (code, out) == (1, "")
    assert f"vtc: error: {message}" in err
