"""Training with two processes equals training with one on the same samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vtc_recipes.squares import write_squares

STEPS = ("optimisation.steps=2", "output.save_steps=2")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Answers of different lengths: a mean of the processes' means would be wrong."""
    path = write_squares(tmp_path_factory.mktemp("squares"), videos=4)
    entries = json.loads(path.read_text())
    for number, entry in enumerate(entries):
        entry["conversations"][1]["value"] += " It moves on." * number
    path.write_text(json.dumps(entries))
    return path


def train(launcher: list[str], folder: Path, squares: Path, *settings: str) -> tuple[dict, list]:
    """Run the smoke recipe; its trained weights, and the norm of the gradient at each step."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    basics = (f"data.sources.0.path={squares}", f"output.folder={folder}", *STEPS)
    ended = subprocess.run(
        [
            sys.executable,
            *launcher,
            "-m",
            "vtc.cli",
            "--debug",
            "train",
            "smoke",
            *basics,
            *settings,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    log = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    return load_file(folder / "model.safetensors"), [entry["grad_norm"] for entry in log]


@pytest.fixture(scope="module")
def alone(squares, tmp_path_factory):
    """One process, two samples a step."""
    return train([], tmp_path_factory.mktemp("alone"), squares)


TWO = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
TWO += ["--rdzv-endpoint", "localhost:0"]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(alone, squares, tmp_path):
    expected, norms = alone
    found, norms_of_two = train(TWO, tmp_path / "two", squares, "optimisation.batch_size=1")
    assert norms_of_two == pytest.approx(norms, rel=1e-4)  # AdamW hides a wrong scale
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-5), name
