"""docs/plugins.md says what is: signatures, the example's code, the output of broken plug-ins."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
from forked import run_vtc

import vtc
from vtc.interfaces.part import Part
from vtc.plugins import hookspecs

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.S | re.M)
PYTHON = [body for language, body in BLOCKS if language == "python"]


def signatures(source: str) -> dict[str, str]:
    """The functions anywhere in some code, with arguments and result as they are written."""
    return {
        node.name: f"{ast.unparse(node.args)} -> {node.returns and ast.unparse(node.returns)}"
        for node in ast.walk(ast.parse(dedent(source)))
        if isinstance(node, ast.FunctionDef)
    }


def shown(name: str) -> dict[str, str]:
    """The signatures in the block of the page that shows the function ``name``."""
    (matches,) = [
        signatures(block)
        for block in PYTHON
        if name in signatures(block) and "return {" not in block
    ]
    return matches


def test_all_hooks_are_shown_with_their_signatures():
    assert shown("vtc_register_selectors") == signatures(inspect.getsource(hookspecs))


@pytest.mark.parametrize(
    ("interface", "name"), [(vtc.FrameSelector, "select"), (vtc.TokenMerger, "forward")]
)
def test_interfaces_are_shown_with_their_signatures(interface, name):
    assert shown(name) == signatures(inspect.getsource(interface))


def test_the_method_of_lazy_selectors_is_shown_with_its_signature():
    assert shown("search")["search"] == signatures(inspect.getsource(vtc.LazySelector))["search"]


def test_the_method_of_pruners_is_shown_with_its_signature():
    assert shown("keep")["keep"] == signatures(inspect.getsource(vtc.TokenPruner))["keep"]


@pytest.mark.parametrize("interface", [vtc.FrameSelector, vtc.TokenMerger])
def test_attributes_are_shown_with_their_defaults(interface):
    for line in re.findall(r"^    (\w+: .* = .*)$", inspect.getsource(interface), flags=re.M):
        assert f"\n{line}" in PAGE, line


def test_costs_are_shown_with_their_signatures():
    for name in ("macs", "extra_memory"):
        assert shown("extra_memory")[name] == signatures(inspect.getsource(Part))[name]


def test_code_of_the_example_is_in_the_example():
    matches = [re.match(r"# (\S+)\n(.*)", block, flags=re.S) for block in PYTHON]
    examples = [match.groups() for match in matches if match]
    assert len(examples) == 2
    for path, code in examples:
        file = ROOT / "examples" / "vtc-plugin-example" / path
        assert code in file.read_text(encoding="utf-8"), path


FIRST = '''
import torch
import vtc


class First(vtc.FrameSelector):
    """Takes the first frame."""

    uses_query = uses_embeddings = False

    def select(self, embeddings, query=None, timestamps=None):
        return vtc.Selection(torch.tensor([0]), None)


@vtc.hookimpl
def vtc_register_selectors():
    return {"first": First}
'''
PLUGINS = {"broken": "import acme_cuda_kernels\n", "one": FIRST, "two": FIRST}


def test_the_transcript_is_what_the_commands_print(tmp_path):
    for name, source in PLUGINS.items():
        info = tmp_path / "site" / f"{name}_vtc-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-vtc\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vtc]\n{name} = {name}\n")
        (tmp_path / "site" / f"{name}.py").write_text(source)
    vtc.testing.write_video(tmp_path / "squares.mp4", vtc.testing.moving_squares(seconds=12))
    (transcript,) = [body for _, body in BLOCKS if body.startswith("$ ")]
    display = {"NO_COLOR": "1", "COLUMNS": "96", "PYTHONPATH": str(tmp_path / "site")}
    printed = ""
    for command in re.findall(r"^\$ (.*)$", transcript, flags=re.M):
        settings, _, words = command.rpartition("vtc ")
        extra = dict(setting.split("=") for setting in settings.split())
        done = run_vtc(*shlex.split(words), folder=tmp_path, merged=True, **display, **extra)
        printed += f"$ {command}\n{done.stdout}"
    assert [line.rstrip() for line in printed.splitlines()] == transcript.splitlines()
