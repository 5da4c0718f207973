"""Training with two processes equals training with one on the same samples."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
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


CLI = ["-m", "vtc.cli"]


def train(
    program: list[str], folder: Path, data: Path, *settings: str, **environment: str
) -> tuple[dict, list]:
    """Run the smoke recipe; its trained weights, and the norm of the gradient at each step."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    basics = (f"data.sources.0.path={data}", f"output.folder={folder}", *STEPS)
    ended = subprocess.run(
        [sys.executable, *program, "--debug", "train", "smoke", *basics, *settings],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    log = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    (weights,) = (folder / "checkpoint-2").glob("*.safetensors")  # the model's, or LoRA's
    return load_file(weights), [entry["grad_norm"] for entry in log if "grad_norm" in entry]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """One process, two samples a step."""
    return train(CLI, tmp_path_factory.mktemp("alone"), data)


TWO = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
TWO += ["--rdzv-endpoint", "localhost:0"]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(alone, data, tmp_path):
    expected, norms = alone
    found, norms_of_two = train([*TWO, *CLI], tmp_path / "two", data, "optimisation.batch_size=1")
    assert norms_of_two == pytest.approx(norms, rel=1e-4)  # AdamW hides a wrong scale
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-5), name


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="needs deepspeed (pip install deepspeed); no GPU",
)

# Else DeepSpeed compiles an all-reduce of its own for CPUs: minutes, and a build that was killed
# leaves a lock that later ones wait at for ever.
GLOO_ALONE = """
import deepspeed
from vtc.cli import main

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
main()
"""

# dks finds fewer keyframes in some videos, and DeepSpeed wants the same calls in each process.
SAME_FOR_ALL = "vtc.selector.name=uniform"


def train_zero3(config: Path, folder: Path, data: Path, *settings: str) -> tuple[dict, list]:
    """Likewise, in two processes with a sample each."""
    program = folder.parent / "gloo_alone.py"
    program.write_text(GLOO_ALONE)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    launcher += ["--num_processes", "2", "--main_process_port", "0", str(program)]
    settings = ("optimisation.batch_size=1", *settings)
    cpu = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return train(launcher, folder, data, *settings, **cpu)


FSDP2 = """
import copy, os, sys, torch, torch.distributed as dist, vtc
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from vtc_recipes.training.batches import Collator
from vtc_recipes.training.config import Source
from vtc_recipes.training.data import load_samples

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
model, processor = vtc.testing.tiny()
merger = {"name": "dfm", "projection": "learned"}
encoder = vtc.testing.tiny_encoder()
vtc.wrap(model, vtc.selector("uniform", keyframes=3), merger, processor=processor, encoder=encoder)
model.vtc.separate_connector()
model.vtc.chunk_slices = 4
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
dist.barrier()
os._exit(0)  # torch's threads may end the process with an abort while Python is taken down
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


@pytest.fixture
def divide_all(tmp_path):
    """The shipped settings; small weights, all of the tiny model's, are divided as well."""
    settings = yaml.safe_load(find_config("zero3.yaml", "accelerate").read_text())
    shipped = settings["deepspeed_config"]
    own = {
        "zero_optimization": {
            "stage": shipped["zero_stage"],
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": shipped["zero3_save_16bit_model"],
        },
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": shipped["gradient_accumulation_steps"],
        "gradient_clipping": shipped["gradient_clipping"],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    settings["deepspeed_config"] = {"deepspeed_config_file": str(tmp_path / "own.json")}
    del settings["mixed_precision"]  # refused beside such a file
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


# Without dropout, whose random numbers are another process's.
LORA = ("train.language_model.how=lora", "train.vision_tower.how=frozen", "train.lora.dropout=0")


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("ways", [(), LORA], ids=["full", "lora"])
def test_zero3_takes_the_steps_of_one_process(divide_all, data, tmp_path, ways):
    settings = (SAME_FOR_ALL, "optimisation.warmup=0", *ways)
    expected, norms = train(CLI, tmp_path / "one", data, *settings)
    found, norms_of_two = train_zero3(divide_all, tmp_path / "two", data, *settings)
    assert norms_of_two == pytest.approx(norms, rel=1e-4)  # AdamW hides a wrong scale
    assert found.keys() == expected.keys()
    # A step is 1e-3, so this is a hundredth of one. Of each tensor the mean, for where the gradient
    # is next to nothing, AdamW makes a whole step of what rounding left.
    for name, value in expected.items():
        assert (found[name] - value).abs().mean() < 1e-5, name
    # Each process holds half: AdamW's two moments and the weights, 12 bytes a weight in all.
    parts = list((tmp_path / "two/checkpoint-2/global_step2").glob("*_optim_states.pt"))
    trained = sum(value.numel() for value in found.values())
    assert len(parts) == 2 and max(part.stat().st_size for part in parts) < 8 * trained
    if not ways:
        opened = vtc.from_pretrained(tmp_path / "two", encoder=vtc.testing.tiny_encoder())
        assert vtc.is_wrapped(opened)
        weights = opened.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in found.items())


@needs_deepspeed
@pytest.mark.slow
def test_zero3_as_shipped_resumes_with_the_same_bits(data, tmp_path):
    # This frame encoder is opened by the first batch, when DeepSpeed has long been set up.
    vtc.testing.save_tiny_clip(tmp_path / "clip")
    settings = ("vtc.selector.name=query_guided", f"vtc.encoder={tmp_path / 'clip'}")
    settings += ("vtc.merger.projection=none", "train.merger.how=frozen", "output.save_steps=1")
    config = find_config("zero3.yaml", "accelerate")
    expected, norms = train_zero3(config, tmp_path / "whole", data, *settings)
    first = "checkpoint-1"
    shutil.copytree(tmp_path / "whole" / first, tmp_path / "stopped" / first)
    found, norms_of_both = train_zero3(config, tmp_path / "stopped", data, *settings, "--resume")
    assert norms_of_both == norms
    assert all(torch.equal(found[name], value) for name, value in expected.items())
