"""Commands of plug-ins: listed, run, and named where they cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import COMMAND, run_code

PLUGINS = {
    "good": "{'greet': 'good_commands:greet', 'lost': 'good_commands:lost'}",
    "app": "{'group': 'good_commands:app'}",
    "rude": "{'ask': 'good_commands:greet', 'twice': 'good_commands:greet'}",
    "same": "{'twice': 'good_commands:greet', 'gone': 'no_such_module:run'}",
    "kind": "{'greet2': print}",
    "form": "{'greet3': 'good_commands.greet'}",
}
COMMANDS = '''
import typer

app = typer.Typer(help="Two ways to part.")

@app.command()
def wave(name: str) -> None:
    print(f"bye {name}")

def greet(name: str, loud: bool = False) -> None:
    """Greet someone by name."""
    print(f"hello {name.upper() if loud else name}")
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which the plug-ins above are installed."""
    (tmp_path / "good_commands.py").write_text(COMMANDS)
    for name, mapping in PLUGINS.items():
        info = tmp_path / f"{name}_vtc-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-vtc\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vtc]\n{name} = {name}_plugin\n")
        (tmp_path / f"{name}_plugin.py").write_text(
            f"import vtc\n\n@vtc.hookimpl\ndef vtc_register_commands():\n    return {mapping}\n"
        )
    return tmp_path


@pytest.fixture
def vtc_command(site: Path):
    """Run ``vtc`` in a process of its own, with the plug-ins above installed."""
    environment = {"NO_COLOR": "1", "COLUMNS": "120", "PYTHONPATH": str(site)}

    def run(*words: str, code: str = COMMAND):
        return run_code(code, *words, **environment)

    return run


def test_help_lists_the_usable_ones_and_names_the_others(vtc_command):
    ended = vtc_command("--help")
    assert ended.returncode == 0, ended.stderr
    listed = {word for line in ended.stdout.splitlines() for word in line.split()[1:2]}
    assert {"ask", "greet", "train", "recipes"} <= listed
    assert not {"lost", "gone", "twice"} & listed
    assert "Greet someone by name." in ended.stdout
    for warning in (
        "command 'lost' of plug-in 'good' (good-vtc 1.0) is skipped: AttributeError: module",
        "command 'gone' of plug-in 'same' (same-vtc 1.0) is skipped: ModuleNotFoundError",
        "command 'ask' of plug-in 'rude' (rude-vtc 1.0) is skipped: vtc has a command of this name",
        "command 'twice' of plug-in 'rude' (rude-vtc 1.0) and plug-in 'same' (same-vtc 1.0) is",
        "vtc_register_commands: expected 'greet2' to be 'module:function', got <built-in func",
        "vtc_register_commands: expected 'greet3' to be 'module:function', got 'good_commands.gr",
    ):
        assert warning in ended.stderr, warning


def test_a_command_runs_with_its_options(vtc_command):
    ended = vtc_command("greet", "Ada", "--loud")
    assert (ended.returncode, ended.stdout) == (0, "hello ADA\n")


def test_an_app_becomes_a_group_of_commands(vtc_command):
    assert "Two ways to part." in vtc_command("--help").stdout
    ended = vtc_command("group", "wave", "Ada")
    assert (ended.returncode, ended.stdout) == (0, "bye Ada\n"), ended.stderr


def test_commands_of_vtc_do_not_wait_for_plug_ins(vtc_command):
    ended = vtc_command("ask", "--help")
    assert ended.returncode == 0 and ended.stderr == ""


def test_help_imports_no_torch(site):
    code = (
        "import sys, vtc.cli\ntry:\n    vtc.cli.main()\nfinally:\n"
        "    print('torch' in sys.modules, 'vtc_recipes.commands' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "--help"]
    paths = [str(site), *(os.path.abspath(path) for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False True"


def test_commands_are_no_parts(vtc_command):
    ended = vtc_command("parts", "--json")
    assert ended.returncode == 0 and '"greet"' not in ended.stdout
