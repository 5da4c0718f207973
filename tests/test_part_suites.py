"""Every check of the contracts can fail: each meets a part with that defect."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vtc

BROKEN = Path(__file__).with_name("broken_parts.py")
TREE = ast.parse(BROKEN.read_text(encoding="utf-8")).body
CLASSES = [node for node in TREE if isinstance(node, ast.ClassDef)]


def checks(contract: type) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


def defects(base: str) -> dict[str, list[str]]:
    """The words of each broken class of one kind."""
    return {
        node.name: (ast.get_docstring(node) or "").split()
        for node in CLASSES
        if base in [getattr(found, "id", None) for found in node.bases]
    }


EXPECTED = {
    f"{name}::{check}"
    for base, contract in (
        ("SelectorDefect", vtc.testing.SelectorContract),
        ("MergerDefect", vtc.testing.MergerContract),
    )
    for name, words in defects(base).items()
    for check in checks(contract)
    if any(word in check for word in words)
    if "cuda" not in check or torch.cuda.is_available()
}


@pytest.mark.parametrize(
    ("base", "contract"),
    [
        ("SelectorDefect", vtc.testing.SelectorContract),
        ("MergerDefect", vtc.testing.MergerContract),
    ],
)
def test_every_check_meets_a_defect(base, contract):
    words = [word for found in defects(base).values() for word in found]
    assert words
    unmet = [check for check in checks(contract) if not any(word in check for word in words)]
    assert not unmet, "checks that no broken part meets"


def test_each_defect_is_found_and_sound_parts_pass():
    sound = {node.name for node in CLASSES if node.name.startswith("TestSound")}
    nodes = [f"{BROKEN}::{node}" for node in sorted({*sound, *EXPECTED})]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", *nodes],
        capture_output=True,
        text=True,
        check=False,
        cwd=BROKEN.parents[1],
    )
    shown = run.stdout[-5000:] + run.stderr[-2000:]
    failed = set(re.findall(r"^FAILED \S+?::(\w+::\w+)", run.stdout, flags=re.M))
    assert failed == EXPECTED, shown
    passed = set(re.findall(r"^PASSED \S+?::(\w+)::", run.stdout, flags=re.M))
    assert sound <= passed, shown
    assert "ERROR" not in run.stdout, shown


def test_the_contracts_alone_need_pytest():
    code = "import vtc.testing, sys; print('pytest' in sys.modules, end=' ');"
    code += "vtc.testing.MergerContract; print('pytest' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", ["SelectorContract", "MergerContract", "AdapterContract"])
def test_contracts_say_that_they_need_pytest(name):
    code = f"import sys; sys.modules['pytest'] = None; from vtc.testing import {name}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = f"ModuleNotFoundError: vtc.testing.{name} needs pytest: pip install pytest"
    assert run.stderr.splitlines()[-1] == said


def test_an_unknown_name_of_testing():
    with pytest.raises(AttributeError, match=r"'vtc\.testing' has no attribute 'Contract'"):
        vtc.testing.Contract  # noqa: B018
