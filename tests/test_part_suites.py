"""Every check of the contracts can fail: each meets a part with that defect."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vtc
from vtc.testing._demands import refused

BROKEN = Path(__file__).with_name("broken_parts.py")
TREE = ast.parse(BROKEN.read_text(encoding="utf-8")).body
CLASSES = [node for node in TREE if isinstance(node, ast.ClassDef)]


def checks(contract: type) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


def defects(base: str) -> dict[str, tuple[list[str], str]]:
    """The words of each broken class of one kind, and the sentence that its checks end with."""
    found = {}
    for node in CLASSES:
        if base in [getattr(parent, "id", None) for parent in node.bases]:
            words, _, sentence = (ast.get_docstring(node) or "").partition(": ")
            found[node.name] = words.split(), sentence
    return found


EXPECTED = {
    f"{name}::{check}": sentence
    for base, contract in (
        ("SelectorDefect", vtc.testing.SelectorContract),
        ("MergerDefect", vtc.testing.MergerContract),
    )
    for name, (words, sentence) in defects(base).items()
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
    words = [word for found, _ in defects(base).values() for word in found]
    assert words
    unmet = [check for check in checks(contract) if not any(word in check for word in words)]
    assert not unmet, "checks that no broken part meets"


def test_each_defect_is_found_and_sound_parts_pass():
    sound = {node.name for node in CLASSES if node.name.startswith("TestSound")}
    nodes = [f"{BROKEN}::{node}" for node in sorted({*sound, *EXPECTED})]
    shown = run_broken(*nodes)
    failed = re.findall(r"^FAILED \S+?::(\w+::\w+)(?:\[.*?\])? - (.*)$", shown, flags=re.M)
    assert {check for check, _ in failed} == set(EXPECTED), shown[-5000:]
    assert [(check, said) for check, said in failed if EXPECTED[check] not in said] == []
    passed = set(re.findall(r"^PASSED \S+?::(\w+)::", shown, flags=re.M))
    assert sound <= passed, shown[-5000:]
    assert "ERROR" not in shown, shown[-5000:]


def run_broken(*nodes: str) -> str:
    """What pytest prints of some broken parts: each failure in one line, however long."""
    options = ("-q", "-rA", "--tb=no", "--color=no", "-p", "no:cacheprovider")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *nodes],
        capture_output=True,
        text=True,
        check=False,
        cwd=BROKEN.parents[1],
        env={**os.environ, "COLUMNS": "2000"},
    )
    return run.stdout + run.stderr


BASIC_DEFECTS = {
    "TestSetsNoSelector": "test_part_can_be_made",
    "TestDescending": "test_keyframes_and_relevance_are_as_promised",
    "TestNormalisesInPlace": "test_inputs_are_not_modified",
    "TestDrawsLots": "test_same_input_same_result",
    "TestSetsNoMerger": "test_part_can_be_made",
    "TestReturnsAnArray": "test_tokens_are_as_promised",
    "TestScalesInPlace": "test_inputs_are_not_modified",
    "TestKeepsTheLastFrame": "test_same_input_same_tokens",
}


def test_a_basic_defect_fails_one_check_and_the_others_name_it():
    shown = run_broken(*(f"{BROKEN}::{name}" for name in BASIC_DEFECTS))
    failed = re.findall(r"^FAILED \S+?::(\w+)::(\w+)", shown, flags=re.M)
    assert sorted(failed) == sorted(BASIC_DEFECTS.items())
    skipped = re.findall(r"^SKIPPED \[(\d+)\] \S+ first mend: (\w+)$", shown, flags=re.M)
    assert {basic for _, basic in skipped} == set(BASIC_DEFECTS.values())
    assert sum(int(count) for count, _ in skipped) > 10 * len(BASIC_DEFECTS)


def test_a_check_run_without_the_basic_one_does_not_look_as_if_it_passed():
    shown = run_broken(f"{BROKEN}::TestDescending::test_budget_is_kept")
    basic = "test_keyframes_and_relevance_are_as_promised"
    assert f"::test_budget_is_kept - Failed: first mend: {basic}\n" in shown
    assert "\n1 error in" in shown


def test_a_failure_is_one_sentence_without_a_traceback():
    with pytest.raises(pytest.fail.Exception, match=r"^keyframes=0 must be .* says 'few', got V"):
        with refused("keyframes=0", word="few"):
            raise ValueError("none")
    with pytest.raises(pytest.fail.Exception, match="a ValueError, got KeyError: 1$") as failed:
        with refused("keyframes=0"):
            raise KeyError(1)
    assert failed.value.pytrace is False and failed.value.__suppress_context__
    with refused("keyframes=0", word="few"):
        raise ValueError("too few")


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
