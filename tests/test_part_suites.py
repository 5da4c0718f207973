"""Every check of the contracts can fail: a part with the defect fails it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import PYTEST, run_code

import vtc
from vtc.testing._demands import refused

HERE = Path(__file__).parent
CONTRACTS = {
    "broken_budgets.py": vtc.testing.BudgetContract,
    "broken_selectors.py": vtc.testing.SelectorContract,
    "broken_mergers.py": vtc.testing.MergerContract,
}


def classes(file: str) -> list[ast.ClassDef]:
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def checks(contract: type) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


def defects(file: str) -> dict[str, tuple[list[str], str]]:
    """The words of each broken class of a file, and the sentence with which its checks fail."""
    docs = {}
    for node in classes(file):
        if "Defect" in [getattr(parent, "id", None) for parent in node.bases]:
            words, _, sentence = (ast.get_docstring(node) or "").partition(": ")
            docs[node.name] = words.split(), sentence
    return docs


EXPECTED = {
    f"{file}::{name}::{check}": sentence
    for file, contract in CONTRACTS.items()
    for name, (words, sentence) in defects(file).items()
    for check in checks(contract)
    if any(word in check for word in words)
    if "cuda" not in check or torch.cuda.is_available()
}


@pytest.mark.parametrize("file", CONTRACTS)
def test_every_check_has_a_part_that_fails_it(file):
    words = [word for words, _ in defects(file).values() for word in words]
    untested = [
        check for check in checks(CONTRACTS[file]) if not any(word in check for word in words)
    ]
    assert words and not untested


def test_each_defect_fails_its_checks_and_sound_parts_pass():
    sound = {
        f"{file}::{node.name}"
        for file in CONTRACTS
        for node in classes(file)
        if node.name.startswith("TestSound")
    }
    out = run_broken(*sorted({*sound, *EXPECTED}))
    failed = re.findall(r"^FAILED tests/(\S+?::\w+::\w+)(?:\[.*?\])? - (.*)$", out, flags=re.M)
    assert {check for check, _ in failed} == set(EXPECTED), out[-5000:]
    assert [(check, text) for check, text in failed if EXPECTED[check] not in text] == []
    passed = set(re.findall(r"^PASSED tests/(\S+?::\w+)::", out, flags=re.M))
    assert sound <= passed, out[-5000:]
    assert "ERROR" not in out, out[-5000:]


def run_broken(*nodes: str) -> str:
    """Return the output of pytest for some broken parts; each failure is one line."""
    options = ("-q", "-rA", "--tb=no", "--color=no", "-p", "no:cacheprovider")
    nodes = tuple(f"tests/{node}" for node in nodes)
    run = run_code(PYTEST, *options, *nodes, folder=HERE.parent, COLUMNS="2000")
    return run.stdout + run.stderr


BASIC_DEFECTS = {
    "TestSetsNoBudget": "test_part_can_be_made",
    "TestReturnsAListOfTokens": "test_shape_and_dtype",
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
    nodes = [f"{file}::{name}" for file in CONTRACTS for name in defects(file)]
    out = run_broken(*(node for node in nodes if node.partition("::")[2] in BASIC_DEFECTS))
    failed = re.findall(r"^FAILED \S+?::(\w+)::(\w+)", out, flags=re.M)
    assert sorted(failed) == sorted(BASIC_DEFECTS.items())
    skipped = re.findall(r"^SKIPPED \[(\d+)\] \S+ fix this first: (\w+)$", out, flags=re.M)
    assert {basic for _, basic in skipped} == set(BASIC_DEFECTS.values())
    assert sum(int(count) for count, _ in skipped) > 10 * len(BASIC_DEFECTS)


def test_a_check_that_runs_without_its_basic_check_fails():
    out = run_broken("broken_selectors.py::TestDescending::test_budget_is_kept")
    basic = "test_keyframes_and_relevance_are_as_promised"
    assert f"::test_budget_is_kept - Failed: fix this first: {basic}\n" in out
    assert re.search(r"\b1 error in", out)


def test_a_failure_is_one_sentence_without_a_traceback():
    with pytest.raises(pytest.fail.Exception, match=r"^keyframes=0 must raise .* 'few', got V"):
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
    message = f"ModuleNotFoundError: vtc.testing.{name} needs pytest: pip install pytest"
    assert run.stderr.splitlines()[-1] == message


def test_an_unknown_name_of_testing():
    with pytest.raises(AttributeError, match=r"'vtc\.testing' has no attribute 'Contract'"):
        vtc.testing.Contract  # noqa: B018
