"""Training by recipe: what trains and how fast, exact resuming, what is saved, the dry run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from forked import run_vtc
from safetensors.torch import load_file

import vtc
from vtc_recipes.shipped import find_config
from vtc_recipes.synthetic.dataset import write_dataset
from vtc_recipes.training.components import PARTS, parameter_groups, part_of, set_training
from vtc_recipes.training.config import load_recipe
from vtc_recipes.training.estimate import estimate
from vtc_recipes.training.models import open_model
from vtc_recipes.training.run import train, training_arguments

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"  # read by peft and accelerate
)
LORA = (
    "train.language_model.how=lora",
    "train.connector.how=lora",
    "train.vision_tower.how=frozen",
    "train.lora.rank=4",
)
KILLED_AFTER_A_SAVE = """
import os, signal, sys
from transformers import TrainerCallback
from vtc_recipes.training.config import load_recipe
from vtc_recipes.shipped import find_config
from vtc_recipes.synthetic.dataset import write_dataset
from vtc_recipes.training.run import train

class Kill(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

train(load_recipe(find_config("smoke", "training"), sys.argv[1:]), callbacks=[Kill()])
"""


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), videos=4, questions=2)


@pytest.fixture
def smoke(data, tmp_path):
    """The shipped smoke recipe, on a few videos, with settings of a test."""

    def load(*settings):
        return load_recipe(find_config("smoke", "training"), [*basics, *settings])

    basics = [f"data.sources.0.path={data}", f"output.folder={tmp_path / 'run'}"]
    load.settings = basics
    return load


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved model by their names in memory."""
    return dict(vtc.from_pretrained(folder, encoder=vtc.testing.tiny_encoder()).state_dict())


# --- which parameters train


def test_each_parameter_is_in_the_group_of_its_part(smoke):
    recipe = smoke("optimisation.weight_decay=0.1")
    model, _ = open_model(recipe)
    set_training(model, recipe.train)
    groups = parameter_groups(model, recipe.train, recipe.optimisation.weight_decay)
    of = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(of)
    expected = {
        "vtc.merger.": "merger",
        "vtc.connector.": "connector",
        "model.multi_modal_projector.": "projector",
        "model.vision_tower.": "vision_tower",
        "model.language_model.": "language_model",
        "model.image_newline": "language_model",
        "lm_head.": "language_model",
    }
    for name, parameter in model.named_parameters():
        (part,) = [part for start, part in expected.items() if name.startswith(start)]
        group = of[id(parameter)]
        assert group["part"] == part, name
        assert group["lr"] == getattr(recipe.train, part).learning_rate
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


@pytest.mark.filterwarnings("ignore:merger .* has untrained parameters")
@pytest.mark.parametrize("part", vtc.parts("adapter"), ids=lambda part: part.name)
def test_every_family_has_all_parts(part, encoder):
    model, processor = vtc.testing.tiny(part.name)
    vtc.wrap(model, "uniform", "q_former", processor=processor, encoder=encoder)
    model.vtc.separate_connector()
    found = {}
    for name, _ in model.named_parameters():
        found.setdefault(part_of(name, model.vtc), set()).add(name)
    assert set(found) == set(PARTS)
    blocks = [name for name in found["language_model"] if "language_model" not in name]
    known = ("lm_head.", "image_newline", "text_model.")
    assert all(any(word in name for word in known) for name in blocks), blocks


def test_frozen_parts_stay_and_others_move(smoke):
    frozen = ("vision_tower", "language_model")
    recipe = smoke("optimisation.steps=2", *(f"train.{part}.how=frozen" for part in frozen))
    model, _ = open_model(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved = set()
    for name, value in weights(train(recipe)).items():
        if not torch.equal(before[name], value):
            moved.add(part_of(name, model.vtc))
    assert moved == {"merger", "connector", "projector"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["vtc.merger=mean_pool"], r"train.merger.how: 'full': merger 'mean_pool' has no param"),
        (["train.projector.how=lora", *LORA, "vtc.adapter.frame_text=all"], "takes no options"),
        (["output.folder={data}", "--resume"], "holds no complete checkpoint"),
    ],
)
def test_what_cannot_train_is_refused(smoke, data, settings, message):
    settings = [text.format(data=data.parent) for text in settings]
    resume = "--resume" in settings
    with pytest.raises(ValueError, match=message):
        train(smoke(*(s for s in settings if s != "--resume")), resume=resume)


def test_fsdp_that_accelerate_would_leave_out_is_refused(smoke, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    if torch.cuda.is_available():
        pytest.skip("here it would not be left out")
    with pytest.raises(ValueError, match="accelerate uses FSDP on GPUs only"):
        train(smoke())


def test_a_placeholder_in_a_text_is_refused(smoke, data):
    entries = [json.loads(line) for line in data.read_text().splitlines()]
    entries[1]["messages"][1]["content"] = "The <video> one."
    path = data.parent / "marked.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="synthetic: a text about .*00001.mp4 .* with '<video>'"):
        train(smoke(f"data.sources.0.path={path}"))


# --- the run


def test_arguments_are_the_recipes(smoke):
    recipe = smoke("optimisation.steps=null", "optimisation.epochs=2", "optimisation.warmup=0.03")
    arguments = training_arguments(recipe)
    assert arguments.get_warmup_steps(100) == 3
    assert (arguments.num_train_epochs, arguments.max_steps) == (2, -1)
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.ddp_find_unused_parameters is True


@pytest.mark.slow
def test_a_killed_run_resumes_bit_equal(smoke, tmp_path):
    straight = train(smoke(f"output.folder={tmp_path / 'straight'}"))
    command = [sys.executable, "-c", KILLED_AFTER_A_SAVE, *smoke.settings]
    # The threads of this process: sums in another order end in other bits.
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "run"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-3"]
    checkpoint = folder / "checkpoint-3"
    assert json.loads((checkpoint / "vtc.json").read_text())["connector"] == "separate"
    halfway = weights(checkpoint)["vtc.merger.linear_q.weight"]
    (folder / "checkpoint-5").mkdir()  # as a run killed while it saves leaves it
    assert train(smoke(), resume=True) == folder
    expected, found = weights(straight), weights(folder)
    assert expected.keys() == found.keys() and any("connector" in name for name in found)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert not torch.equal(halfway, found["vtc.merger.linear_q.weight"])


def stop_after(step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= step

    return Stop()


def test_lora_resumes_and_is_merged_in_the_end(smoke, encoder, tmp_path):
    pieces, straight = tmp_path / "pieces", tmp_path / "straight"
    steps = ("optimisation.steps=4", "output.save_steps=2", "train.lora.dropout=0.5", *LORA)
    train(smoke(*steps, f"output.folder={straight}"))
    train(smoke(*steps, f"output.folder={pieces}"), callbacks=[stop_after(2)])
    assert (pieces / "checkpoint-2" / "vtc.json").is_file()
    saved = load_file(pieces / "checkpoint-2" / "adapter_model.safetensors")
    assert not any("lora" in name and "vision_tower" in name for name in saved)
    assert any("lora_A" in name and "vtc.connector" in name for name in saved)
    assert any("multi_modal_projector" in name and "lora" not in name for name in saved)
    train(smoke(*steps, f"output.folder={pieces}"), resume=True)
    expected, found = weights(straight), weights(pieces)
    stock = open_model(smoke())[0].state_dict()
    assert found.keys() == expected.keys() == stock.keys()  # no trace of peft
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    changed = {name for name in found if not torch.equal(found[name], stock[name])}
    assert any("q_proj" in name and "language_model" in name for name in changed)
    assert any(name.startswith("vtc.connector") for name in changed)
    assert not any("vision_tower" in name for name in changed)
    opened = vtc.from_pretrained(pieces, encoder=encoder)
    assert vtc.is_wrapped(opened) and opened.vtc.connector is not None


def test_a_folder_with_checkpoints_is_not_trained_into_anew(smoke, tmp_path):
    recipe = smoke("optimisation.steps=1", "output.save_steps=1")
    train(recipe)
    with pytest.raises(ValueError, match="holds checkpoints of another run: resume .* --resume"):
        train(recipe)
    written = (tmp_path / "run" / "recipe.yaml").read_bytes()
    steps = ("optimisation.steps=1", "output.save_steps=1")
    for setting, message in {
        "vtc.merger.temperature=0.5": "vtc.merger.temperature is 0.5 and was",
        "optimisation.steps=2": "optimisation.steps is 2 and was 1",
        "train.language_model.learning_rate=0.9": "learning_rate is 0.9 and was 0.001",
    }.items():
        with pytest.raises(ValueError, match=message):
            train(smoke(*steps, setting), resume=True)
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == written
    train(smoke(*steps, "output.log_steps=1"), resume=True)  # what changes no weight


def test_a_trained_model_is_trained_on(smoke, tmp_path):
    """As the stages of ViLAMP do: the second starts from the first one's folder."""
    first = train(smoke("optimisation.steps=1", f"output.folder={tmp_path / 'first'}"))
    again, _ = open_model(smoke(f"model.name={first}"))
    state = again.state_dict()
    for name, value in weights(first).items():
        assert torch.equal(state[name], value), name
    with pytest.raises(ValueError, match="was trained with merger .*dfm.* do not fit .*q_former"):
        open_model(smoke(f"model.name={first}", "vtc.merger=q_former"))
    with pytest.raises(ValueError, match="separate connector, which do not fit .* and stock; set"):
        open_model(
            smoke(f"model.name={first}", "vtc.connector=stock", "train.connector.how=frozen")
        )


def test_a_second_training_into_the_same_folder_is_refused(smoke, tmp_path):
    recipe = smoke("optimisation.steps=1")
    folder = Path(recipe.output.folder)
    folder.mkdir(parents=True)
    with (
        FileLock(folder / ".lock"),
        pytest.raises(ValueError, match="another process is training into"),
    ):
        train(recipe)
    assert not list(folder.glob("checkpoint-*"))
    train(recipe)


# --- the dry run


@pytest.mark.parametrize("ways", [(), LORA], ids=["full", "lora"])
def test_sizes_are_those_of_the_parameters(smoke, ways):
    recipe = smoke(*ways)
    model = set_training(open_model(recipe)[0], recipe.train)
    sizes = {size.part: size for size in estimate(model, recipe)}
    everything, trained = (
        list(model.parameters()),
        [p for p in model.parameters() if p.requires_grad],
    )
    assert sum(size.parameters for size in sizes.values()) == sum(p.numel() for p in everything)
    assert sum(size.trainable for size in sizes.values()) == sum(p.numel() for p in trained)
    assert sum(size.bytes for size in sizes.values()) == 4 * sum(
        p.numel() for p in everything
    ) + 3 * 4 * sum(p.numel() for p in trained)
    # By hand: 16 -> 32 -> 32 with biases.
    assert sizes["projector"].parameters == (16 * 32 + 32 + 32 * 32 + 32) * (2 if ways else 1)
    lora = 4 * ((16 + 32) + (32 + 32))
    assert sizes["connector"].trainable == (lora if ways else 16 * 32 + 32 + 32 * 32 + 32)


def test_the_dry_run_of_a_folder_reads_no_weights(smoke, tmp_path):
    model, processor = vtc.testing.tiny()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    words = ("train", "smoke", "--dry-run", "model.name=model")
    ended = run_vtc(*words, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = {line.split()[0]: line.split() for line in ended.stdout.splitlines()}
    assert lines["connector"][:5] == ["connector", "full", "0.001", "1600", "1600"]
    assert not (tmp_path / "runs").exists()
    result = json.loads(run_vtc(*words, "--json", folder=tmp_path).stdout)
    assert [part["part"] for part in result["parts"]] == list(PARTS)
    assert result["bytes"] == sum(
        part[kind] for part in result["parts"] for kind in ("weights", "gradients", "optimiser")
    )


def test_errors_of_the_command_are_short(tmp_path):
    ended = run_vtc("train", "smoke", folder=tmp_path)
    assert ended.returncode == 1 and "train.jsonl cannot be read" in ended.stderr
    assert "Traceback" not in ended.stderr
    listed = run_vtc("recipes", "--json", folder=tmp_path)
    names = {file["name"] for file in json.loads(listed.stdout)}
    assert {"smoke", "vilamp_long", "zero3", "fsdp2"} <= names


def test_a_stage_that_was_not_trained_yet_is_named(smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no folder runs/vilamp_short: first train the stage that"):
        open_model(smoke("model.name=runs/vilamp_short"))


def test_the_dry_run_says_which_data_are_missing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("train", "smoke", "--dry-run")
    assert code == 0 and "path (synthetic): there is no file synthetic/train.jsonl" in out
    code, out, _ = command("train", "smoke", "--dry-run", "data.sources.0.path=null")
    assert code == 0 and "data.sources.0.path (synthetic): it is not set yet" in out
    write_dataset("synthetic", videos=4, seed=0)
    code, out, _ = command("train", "smoke", "--dry-run")
    assert code == 0 and "error" not in out
    assert " samples, 6 steps in one process\n" in out and " tokens per sample, at most " in out
    code, _, err = command("train", "smoke", "foo=1")
    assert code == 1 and "smoke.yaml with foo=1 has 1 error" in err
