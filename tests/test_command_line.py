"""The command ``vtc``: its list of parts, how errors end it, and how quickly it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked import run_code, run_vtc

import vtc

PLUGIN = """
from dataclasses import dataclass

import vtc
from vtc.interfaces.frame_selector import FrameSelector


class Even(FrameSelector):
    '''Takes every other frame.'''

    @dataclass(frozen=True, kw_only=True)
    class Config:
        stride: int = 2
        fill: str = "none"

    def select(self, embeddings, query=None, timestamps=None):
        raise NotImplementedError


@vtc.hookimpl
def vtc_register_selectors():
    return {"even": "acme:Even", "lost": "acme:Lost"}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of two installed plug-ins: ``acme``, of which one part works, and ``bad``."""
    for name, source in {"acme": PLUGIN, "bad": "raise RuntimeError('no [GPU]')"}.items():
        info = tmp_path / f"{name}_vtc-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-vtc\nVersion: 1.5")
        (info / "entry_points.txt").write_text(f"[vtc]\n{name} = {name}\n")
        (tmp_path / f"{name}.py").write_text(source)
    return tmp_path


def run_afresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter, which has imported nothing."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.fixture(autouse=True)
def no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("columns", ["80", "200"])
def test_parts_lists_what_works_and_what_is_broken(site: Path, columns: str) -> None:
    shown = run_vtc("parts", PYTHONPATH=str(site), COLUMNS=columns)
    assert (shown.returncode, shown.stderr) == (0, "")
    usable, _, unusable = shown.stdout.partition("Broken")
    for text in ("Takes every other frame.", "stride=2", "fill='none'", "acme-vtc", "1.5", "dks"):
        assert text in usable
    assert "bad" not in usable and "lost" not in usable
    assert "selector lost (acme, acme-vtc 1.5)\n  cannot load acme:Lost: Attrib" in unusable
    assert "plug-in bad (bad, bad-vtc 1.5)\n  RuntimeError: no [GPU]" in unusable
    assert all(len(line) <= int(columns) for line in shown.stdout.splitlines())
    assert "…" not in shown.stdout


def test_parts_as_json(site: Path) -> None:
    listed = json.loads(run_vtc("parts", "selector", "--json", PYTHONPATH=str(site)).stdout)
    assert {part["kind"] for part in listed} == {"selector"}
    (even,) = [part for part in listed if part["name"] == "even"]
    assert even == {
        "kind": "selector",
        "name": "even",
        "plugin": "acme",
        "distribution": "acme-vtc",
        "version": "1.5",
        "summary": "Takes every other frame.",
        "options": {"stride": 2, "fill": "none"},
        "error": None,
    }


def test_nothing_to_list(tmp_path: Path) -> None:
    shown = run_vtc("parts", "plug-in")
    assert (shown.returncode, shown.stdout) == (0, "nothing to list of the kind plug-in\n")


def test_a_clash_is_shown_once_and_a_list_of_plug_ins_points_at_it(site: Path) -> None:
    (site / "bad.py").write_text(PLUGIN)
    named = {"PYTHONPATH": str(site), "COLUMNS": "200"}
    shown = run_vtc("parts", "selector", **named).stdout
    both = "even (acme, acme-vtc 1.5) (bad, bad-vtc 1.5)\n  selector 'even' is registered by"
    assert both in shown and shown.count("'even' is registered by") == 1
    listed = json.loads(run_vtc("parts", "selector", "--json", **named).stdout)
    assert [part["plugin"] for part in listed if part["name"] == "even"] == ["acme", "bad"]
    pointer = "Some parts of other plug-ins are broken too: see 'vtc parts'.\n"
    assert run_vtc("parts", "plug-in", **named).stdout.endswith(pointer)


def test_version() -> None:
    assert run_vtc("--version").stdout == f"vtc {vtc.__version__}\n"


def test_without_a_command_there_is_help() -> None:
    shown = run_vtc()
    assert "Usage: vtc" in shown.stdout + shown.stderr
    assert "parts" in shown.stdout + shown.stderr


def test_unknown_kinds_are_usage_errors() -> None:
    ended = run_vtc("parts", "mergers")
    assert ended.returncode == 2
    assert "'mergers' is not one of" in ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["new-plugin", "--help"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = """
import atexit, sys
heavy = ("torch", "transformers", "av", "open_clip", "peft")
atexit.register(lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr))
import vtc.cli
vtc.cli.main()
"""
    assert run_afresh(code, *arguments).stderr == "[]\n"
    # The check can fail.
    assert "torch" in run_afresh(f"import torch{code}", *arguments).stderr


@dataclass(frozen=True)
class Ending:
    """How ``vtc fail`` must end for an exception."""

    raised: str
    code: int
    stderr: str
    flags: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "ending",
    [
        Ending("ValueError('keyframes=0:\\n  too few')", 1, "vtc: error: keyframes=0: too few\n"),
        Ending("ImportError('no av')", 1, "vtc: error: no av\n"),
        Ending("TimeoutError()", 1, "vtc: error: TimeoutError\n"),
        Ending("ValueError('shown')", 1, "Traceback (most recent call last)", ("--debug",)),
        Ending(
            "KeyError('a bug')",
            1,
            "vtc: error: KeyError: 'a bug' (see the traceback with vtc --debug)\n",
        ),
        Ending("KeyError('a bug')", 1, "Traceback (most recent call last)", ("--debug",)),
        Ending("KeyboardInterrupt()", 130, ""),
        Ending("typer.Exit(4)", 4, ""),
        Ending("typer.BadParameter('no such video')", 2, "Usage: "),
    ],
    ids=lambda ending: ending.raised,
)
def test_command_errors(ending: Ending) -> None:
    code = f"""
import typer, vtc.cli
@vtc.cli.app.command()
def fail() -> None:
    raise {ending.raised}
vtc.cli.main()
"""
    ended = run_code(code, *ending.flags, "fail")
    assert ended.returncode == ending.code
    assert ended.stderr.startswith(ending.stderr)
    assert ending.code != 1 or ("Traceback" in ended.stderr) == ending.stderr.startswith("Trace")
