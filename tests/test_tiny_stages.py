"""The recipes of the tiny models: stages, gates, and runs that go on where they were stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_training import examine_little
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

import vtc
from vtc_recipes.reading import apply_overrides, load_yaml
from vtc_recipes.schema import RecipeError
from vtc_recipes.shipped import find_config
from vtc_recipes.synthetic import make_example
from vtc_recipes.tiny.config import TinyRecipe
from vtc_recipes.tiny.models import build_vlm
from vtc_recipes.tiny.optimiser import AdamWAndMuon, Muon
from vtc_recipes.tiny.reading import parse_tiny
from vtc_recipes.tiny.stage import read_metrics
from vtc_recipes.tiny.stages import STAGES, StageTrainer, _arguments, train

BASICS = [
    *(f"stages.{n}.{what}" for n in range(5) for what in ("steps=4", "scenes=130", "gates={}")),
    *(f"stages.{n}.batch={size}" for n, size in enumerate((4, 8, 100, 200, 200))),
    "output.save_steps=2",
    "output.log_steps=1",
]
KILLED_IN_THE_LAST_STAGE = """
import os, signal, sys
import pytest
from quick_training import examine_little
from transformers import TrainerCallback
from vtc_recipes.reading import apply_overrides, load_yaml
from vtc_recipes.shipped import find_config
from vtc_recipes.tiny.reading import parse_tiny
from vtc_recipes.tiny.stages import train

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if args.output_dir.endswith("/answers") and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

examine_little(pytest.MonkeyPatch())
values = apply_overrides(load_yaml(find_config("tiny_vlm", "training")), sys.argv[1:])
train(parse_tiny(values, "killed"), resume=True, callbacks=[Kill()])
"""


def recipe(*settings: str, name: str = "tiny_vlm") -> TinyRecipe:
    values = load_yaml(find_config(name, "training"))
    basics = [
        one
        for one in BASICS
        if int((one + "..0").split(".")[1] if one.startswith("stages") else 0)
        < len(values["stages"])
    ]
    return parse_tiny(apply_overrides(values, [*basics, *settings]), name)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examine on few scenes."""
    examine_little(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps a stage."""
    with pytest.MonkeyPatch.context() as patch:
        examine_little(patch)
        folder = tmp_path_factory.mktemp("tiny") / "run"
        assert train(recipe(f"output.folder={folder}")) == folder / "long_answers"
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved model by their names in memory, shared ones once."""
    if not (folder / "vtc.json").is_file():
        return load_file(folder / "model.safetensors")
    return dict(vtc.from_pretrained(folder).named_parameters())


def test_each_stage_goes_on_from_the_one_before_and_says_what_it_reached(whole: Path) -> None:
    for name in (stage.name for stage in recipe().stages):
        stage = STAGES[name]
        metrics = read_metrics(whole, name)
        assert metrics is not None and set(stage.gated) <= metrics["measured"].keys()
        assert [entry["step"] for entry in metrics["log"]] == [1, 2, 3, 4]
        assert metrics["cpu_seconds"] >= 0 and metrics["settings"]["steps"] == 4
        assert not list((whole / name).glob("checkpoint-*"))
    captions, answers = (weights(whole / name) for name in ("captions", "answers"))
    first = build_vlm(seed=0)[0].state_dict()
    layer = "model.language_model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[layer], captions[layer])
    changed = {name for name in answers if not torch.equal(captions[name], answers[name])}
    assert {layer, "vtc.merger.linear_q.weight"} <= changed
    assert any(name.startswith("vtc.connector") for name in changed)
    tower = {name for name in answers if "vision_tower" in name}
    assert tower and not tower & changed
    assert not torch.equal(first[min(tower)], answers[min(tower)])  # the pretext's


def test_the_result_opens_with_the_dual_encoder_beside_it(whole: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(whole, moved)
    assert json.loads((moved / "answers" / "vtc.json").read_text())["encoder"] == "../dual_encoder"
    model = vtc.from_pretrained(moved / "answers")
    assert model.vtc.encoder.name == str(moved / "dual_encoder")
    example = make_example(0, 8, kind="colour", split="test")
    vtc.ask(model, model.vtc.processor, example.video, example.question.text, max_new_tokens=1)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_bits_of_an_unbroken_one(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("pretext", "dual_encoder", "captions"):
        (folder / name).symlink_to(whole / name)
        (folder / f"{name}.json").symlink_to(whole / f"{name}.json")
    settings = [*BASICS, f"output.folder={folder}"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_LAST_STAGE, *settings],
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (folder / "answers").glob("checkpoint-*")] == ["checkpoint-2"]
    train(recipe(f"output.folder={folder}"), resume=True)
    metrics = read_metrics(folder, "answers")
    assert metrics is not None and metrics["resumed_from"] == "checkpoint-2"
    expected, found = weights(whole / "answers"), weights(folder / "answers")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_seed_makes_the_result(whole: Path, tmp_path: Path) -> None:
    name = "dual_encoder"
    for seed, same in ((0, True), (1, False)):
        folder = tmp_path / str(seed)
        settings = (f"seed={seed}", f"output.folder={folder}")
        assert train(recipe(*settings, name="tiny_clip")) == folder / name
        expected, found = weights(whole / name), weights(folder / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected) == same


def test_a_failed_gate_stops_what_comes_after(tmp_path: Path) -> None:
    settings = (f"output.folder={tmp_path}", "stages.0.gates.shape=0.99", "stages.0.steps=1")
    for resume in (False, True):  # going on does not help, and trains nothing again
        with pytest.raises(ValueError, match="failed its gates: expected shape >= 0.99, got"):
            train(recipe(*settings, name="tiny_clip"), resume=resume)
    assert not (tmp_path / "dual_encoder").exists()
    # A gate is no setting of the training: a lower one lets the others start.
    lower = (settings[0], "stages.0.steps=1", "stages.1.steps=1")
    train(recipe(*lower, name="tiny_clip"), resume=True)


class _Stop(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            raise KeyboardInterrupt


def test_an_interrupted_stage_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    settings = (f"output.folder={tmp_path}", "output.save_steps=1", "stages.0.steps=2")
    with pytest.raises(KeyboardInterrupt):
        train(recipe(*settings, name="tiny_clip"), callbacks=[_Stop()])
    other = recipe(*settings, "stages.0.learning_rate=9e-4", name="tiny_clip")
    with pytest.raises(ValueError, match="'pretext' trained with learning_rate=0.0015, the rec"):
        train(other, resume=True)
    train(recipe(*settings, name="tiny_clip"), resume=True)
    assert (read_metrics(tmp_path, "pretext") or {})["resumed_from"] == "checkpoint-1"
    assert not (tmp_path / "pretext" / "started.json").exists()


def test_results_are_kept_unless_they_are_of_other_settings(whole: Path) -> None:
    here = f"output.folder={whole}"
    with pytest.raises(ValueError, match="holds results already; continue with --resume, or set"):
        train(recipe(here))
    before = (whole / "long_answers.json").stat().st_mtime_ns
    assert train(recipe(here), resume=True) == whole / "long_answers"
    assert (whole / "long_answers.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="'captions' trained with steps=4, the recipe has 5"):
        train(recipe(here, "stages.2.steps=5"), resume=True)
    with pytest.raises(ValueError, match="trained with seed=0, the recipe has 3"):
        train(recipe(here, "seed=3"), resume=True)


def test_a_dry_run_shows_what_each_stage_would_train(whole: Path, command: Any) -> None:
    code, out, _ = command(
        "train", "tiny_vlm", "--dry-run", "stages.3.steps=7", "stages.3.gates={}"
    )
    assert code == 0 and "answers: 7 steps of 2000, gates: none" in out
    code, out, _ = command("train", "tiny_vlm", "--dry-run", "--json")
    parts = {part["part"]: part for part in json.loads(out)["parts"]}
    assert list(parts) == [stage.name for stage in recipe().stages]
    trained = weights(whole / "answers")
    own = sum(weight.numel() for name, weight in trained.items() if "vision_tower" not in name)
    assert parts["answers"]["trainable"] == own


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="train in one process; start it without torchrun"):
        train(recipe(f"output.folder={tmp_path}"))


def test_all_errors_of_a_recipe_come_at_once() -> None:
    values = apply_overrides(
        load_yaml(find_config("tiny_vlm", "training")),
        ["stages.2.name=answers", "stages.1.gates.fond=0.9"],
    )
    with pytest.raises(RecipeError) as caught:
        parse_tiny(values, "bad")
    text = "\n".join(caught.value.problems)
    assert "stages.2: 'answers' needs the stage 'captions' before it" in text
    assert "stages.1.gates.fond is unknown; known: found, same_scene, other_scene" in text
    assert "stages.3.name: 'answers' appears twice" in text
    with pytest.raises(RecipeError, match="stages.0.step is unknown.*Did you mean 'steps'"):
        recipe("stages.0.step=3")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("reference=released", "vtc.merger: it uses references other than the preceding keyframe"),
        ("normalise_query=false", "vtc.merger: it takes the query before normalisation, but"),
    ],
)
def test_mergers_that_ask_for_more_are_refused_before_any_stage(option: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(f"vtc.merger.{option}")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    settings = recipe(name="tiny_clip").stages[0]
    stage = STAGES["pretext"](settings, recipe(name="tiny_clip"), tmp_path)
    nn.init.constant_(stage.model.head.weight, torch.nan)
    trainer = StageTrainer(stage, args=_arguments(recipe(), settings, tmp_path))
    with pytest.raises(FloatingPointError, match="of the stage 'pretext' is nan at step 0; lower"):
        trainer.train()


def quadratic(optimiser: torch.optim.Optimizer, weight: nn.Parameter, steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        ((weight - torch.eye(3)) ** 2).sum().backward()
        optimiser.step()


def test_muon_and_adamw_train_their_weights_and_resume_from_their_state() -> None:
    def fresh() -> tuple[nn.Parameter, nn.Parameter, AdamWAndMuon]:
        torch.manual_seed(0)
        square, vector = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3))
        return square, vector, AdamWAndMuon([square, vector], [square], rate=0.1)

    square, vector, optimiser = fresh()
    assert [type(part).__name__ for part in optimiser.parts] == ["AdamW", "Muon"]
    owned = [weight for group in optimiser.param_groups for weight in group["params"]]
    assert {id(weight) for weight in owned} == {id(square), id(vector)} and len(owned) == 2
    before = square.detach().clone()
    quadratic(optimiser, square, 3)
    # Muon's updates are orthogonal: all singular values alike, whatever the gradient's are.
    assert torch.linalg.svdvals(square.detach() - before).std() < 0.3
    halfway, state = square.detach().clone(), deepcopy(optimiser.state_dict())
    quadratic(optimiser, square, 3)
    again, _, other = fresh()
    with torch.no_grad():
        again.copy_(halfway)
    other.load_state_dict(state)
    for group in other.param_groups:  # what a schedule sets reaches both parts
        group["lr"] = 0.1
    assert all(group["lr"] == 0.1 for part in other.parts for group in part.param_groups)
    quadratic(other, again, 3)
    assert torch.equal(again, square)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_muon_steps_along_the_singular_vectors_of_the_mean_gradient(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for _ in range(2)]
    before = [weight.detach().double() for weight in weights]
    gradients = [torch.randn(2, *shape) for _ in weights]
    optimiser = Muon(weights, lr=0.01, weight_decay=0.1, momentum=0.9)
    for step in range(2):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient[step].clone()
        if step:
            before = [weight.detach().double() for weight in weights]
        optimiser.step()
    for weight, start, (first, second) in zip(weights, before, gradients, strict=True):
        mean = 0.9 * 0.1 * first.double() + 0.1 * second.double()
        left, _, right = torch.linalg.svd(0.1 * second + 0.9 * mean, full_matrices=False)
        update = (start * (1 - 0.01 * 0.1) - weight.detach()) / (0.2 * max(shape) ** 0.5 * 0.01)
        inside = left.T @ update @ right.T
        assert (inside.diagonal() > 0.05).all() and (inside.diagonal() < 1.3).all()
        assert inside.diagonal()[:3].min() > 0.6
        assert (inside - inside.diagonal().diag()).abs().max() < 1e-4
        assert (left @ inside @ right - update).abs().max() < 1e-4
