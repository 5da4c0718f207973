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

import vtc
from vtc_recipes.shipped import find_config
from vtc_recipes.synthetic.dataset import write_dataset

STEPS = ("optimisation.steps=2", "output.save_steps=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Answers of different lengths: a mean of the processes' means would be wrong."""
    folder = tmp_path_factory.mktemp("data")
    lines = write_dataset(folder, videos=4).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for number, entry in enumerate(entries):
        entry["messages"][1]["content"] += " It moves on." * number
    path = folder / "longer.json"
    path.write_text(json.dumps(entries))
    return path


def train(launcher: list[str], folder: Path, data: Path, *settings: str) -> tuple[dict, list]:
    """Run the smoke recipe; its trained weights, and the norm of the gradient at each step."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    basics = (f"data.sources.0.path={data}", f"output.folder={folder}", *STEPS)
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
def alone(data, tmp_path_factory):
    """One process, two samples a step."""
    return train([], tmp_path_factory.mktemp("alone"), data)


TWO = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
TWO += ["--rdzv-endpoint", "localhost:0"]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(alone, data, tmp_path):
    expected, norms = alone
    found, norms_of_two = train(TWO, tmp_path / "two", data, "optimisation.batch_size=1")
    assert norms_of_two == pytest.approx(norms, rel=1e-4)  # AdamW hides a wrong scale
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-5), name


FSDP2 = """
import copy, sys, torch, torch.distributed as dist, vtc
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from vtc_recipes.batches import Collator
from vtc_recipes.config import Source
from vtc_recipes.data import load_samples

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
model, processor = vtc.testing.tiny()
merger = {"name": "dfm", "projection": "learned"}
encoder = vtc.testing.tiny_encoder()
vtc.wrap(model, vtc.selector("uniform", keyframes=3), merger, processor=processor, encoder=encoder)
model.vtc.separate_connector()
model.vtc.chunk_frames = 4
model.train()
# One video is twice as long as the other, so the vision tower is called more often for it.
sources = [Source(name="a", path=sys.argv[1], format="messages", fps=fps) for fps in (0.5, 1.0)]
collate = Collator(model, model.vtc, processor)
batches = [collate(load_samples([source], 0)[:1]) for source in sources]

alone = copy.deepcopy(model)
sum(alone(**batch).loss for batch in batches).div(2).backward()
for module in list(model.modules()):
    if type(module).__name__ == "Qwen2DecoderLayer":
        fully_shard(module, mesh=mesh)
fully_shard(model, mesh=mesh)
model(**batches[dist.get_rank()]).loss.backward()

compared = 0
for (name, one), two in zip(alone.named_parameters(), model.parameters()):
    if one.grad is not None:
        assert torch.allclose(one.grad, two.grad.full_tensor(), atol=1e-4, rtol=1e-4), name
        compared += "vtc." in name
assert compared == 12, compared
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_fsdp2_of_the_language_models_layers_gives_the_same_gradients(data, tmp_path):
    """By torch itself: accelerate divides weights on GPUs only."""
    (tmp_path / "script.py").write_text(FSDP2)
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    ended = subprocess.run(
        [sys.executable, *TWO, str(tmp_path / "script.py"), str(data)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


def test_the_settings_for_fsdp2_divide_the_language_model_alone():
    """A layer of the vision tower would gather its weights once a chunk, and processes whose
    videos differ in length would get out of step."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(find_config("fsdp2.yaml", "accelerate")))
    (name,) = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    model, _ = vtc.testing.tiny()
    layers = [key for key, module in model.named_modules() if type(module).__name__ == name]
    assert layers and all(key.startswith("model.language_model.layers.") for key in layers)
