"""Cells of a grid as tasks of a local Ray, one of which is killed."""

import importlib
import os
import sys

import pytest
import yaml
from test_ablation_work import GRID, install, without_times

from vtc.plugins import registry


@pytest.mark.slow
def test_cells_run_in_tasks_and_one_that_dies_runs_again(tmp_path, monkeypatch, command):
    ray = pytest.importorskip("ray", reason="needs the extra cluster")
    install(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "_registry", registry.Registry())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    ray.shutdown()
    code, _, err = command("ablate", "grid.yaml", "--out", "runs", "--ray", "local")
    assert code == 0, err
    logs = [file.read_text() for file in (tmp_path / "runs" / "cells").glob("*/log.txt")]
    assert sorted(log.count("started") for log in logs) == [1, 1, 1, 1, 1, 2]
    code, _, err = command("ablate", "grid.yaml", "--out", "undisturbed")
    assert code == 0, err
    assert without_times(tmp_path / "runs") == without_times(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_failed_cell_is_named_and_the_others_run(tmp_path, monkeypatch, command):
    ray = pytest.importorskip("ray", reason="needs the extra cluster")
    base = {**GRID["base"], "seeds": [0], "encoder": str(tmp_path / "clip")}
    grid = {"base": base, "axes": {"selector": ["uniform", "dks"]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    ray.shutdown()
    code, _, err = command("ablate", "grid.yaml", "--out", "runs", "--ray", "local")
    assert code == 1
    assert "1 failed: cell" in err and "clip" in err, err
    assert len(list((tmp_path / "runs" / "cells").iterdir())) == 1
