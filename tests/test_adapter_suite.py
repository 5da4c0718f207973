"""Every check of the conformance suite can fail: each meets an adapter with that defect."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from forked import PYTEST, run_code

from vtc.testing.adapter_suite import AdapterContract

BROKEN = Path(__file__).with_name("broken_adapters.py")


def test_each_defect_is_found_by_the_check_for_it():
    classes = [
        (node.name, ast.get_docstring(node))
        for node in ast.parse(BROKEN.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
    ]
    checks = [name for name in dir(AdapterContract) if name.startswith("test_")]
    unmet = [check for check in checks if not any(key in check for _, key in classes)]
    assert not unmet, "checks that no broken adapter meets"
    nodes = [
        f"{BROKEN}::{name}::{check}" for name, key in classes for check in checks if key in check
    ]
    options = ("-q", "-rA", "--tb=no", "-p", "no:cacheprovider")
    run = run_code(PYTEST, *options, *nodes, folder=BROKEN.parents[1])
    failed = set(re.findall(r"^FAILED \S+?::(\w+)::", run.stdout, flags=re.M))
    assert failed == {name for name, _ in classes}, run.stdout[-3000:] + run.stderr[-2000:]
