"""``make reproduce-smoke`` without its commands: their order, and what counts as a failure."""

from __future__ import annotations

import subprocess

from vtc_recipes.evaluation import smoke
from vtc_recipes.evaluation.smoke import Step


def test_commands_of_a_group_run_in_order_and_one_without_results_fails(
    monkeypatch, tmp_path, capsys
):
    commands = []

    def run(words, **_):
        commands.append(words[3])
        result = {"make": "cases", "ask": "answers"}.get(words[3])
        if result is not None:
            (tmp_path / "smoke/out" / result).touch()
        return subprocess.CompletedProcess(words, 0, stdout="", stderr="no space left")

    steps = (Step("Figure 2", "make", "cases"), Step("Figure 2", "ask", "answers"))
    monkeypatch.setattr(smoke, "_FAKES", ())
    monkeypatch.setattr(smoke.subprocess, "run", run)
    monkeypatch.setattr(smoke, "STEPS", steps)
    assert smoke.run(tmp_path / "smoke", None)
    assert [name for name in commands if name in ("make", "ask")] == ["make", "ask"]
    monkeypatch.setattr(smoke, "STEPS", (*steps, Step("Table 3", "score", "results.json")))
    assert not smoke.run(tmp_path / "smoke", None)
    printed = capsys.readouterr().out
    assert "FAILED (0)" in printed and "no space left" in printed and printed.count(" ok ") == 4
    monkeypatch.setattr(smoke, "STEPS", (Step("Table 1", "evaluate", harness=True),))
    assert smoke.run(tmp_path / "smoke", None)
    assert "skipped: no lmms-eval" in capsys.readouterr().out
