"""Models that a grid trains: one job for each merger and seed, however many cells need it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtc import registry
from vtc_recipes._reading import RecipeError, apply_overrides, load_yaml, read
from vtc_recipes.ablation.config import Training
from vtc_recipes.ablation.hashing import digest
from vtc_recipes.ablation.leases import Lease
from vtc_recipes.shipped import find_config

MODEL = "model"
"""The folder of a training that its recipe writes to."""
RESULT = "result.json"


@dataclass(frozen=True)
class TrainingJob:
    """One training: a recipe with all its values but the folder.

    Attributes:
        recipe: Its name, for people.
        values: As ``vtc train`` reads them.
        staged: Whether it has stages, as the tiny models' recipes have.
        processes: How many take part.
    """

    recipe: str
    values: dict[str, Any]
    staged: bool
    processes: int

    @property
    def id(self) -> str:
        """Its name, by its contents."""
        return digest({**self.values, "output": None, "processes": self.processes})

    def run(self, folder: Path, lease: Lease) -> None:
        """Train into ``folder/model``, going on from what is there.

        Raises:
            LeaseLost: Another worker has taken over.
            RuntimeError: A process of several failed.
        """
        target = folder / MODEL
        values = {**self.values, "output": {**self.values["output"], "folder": os.fspath(target)}}
        file = folder / "recipe.yaml"  # JSON is YAML
        file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        resume = self.staged or _has_checkpoint(target)
        if self.processes == 1:
            trained = _train(values, self.staged, resume)
        else:
            trained = target
            _launch(file, self.processes, resume, folder, lease)
        lease.check()
        result = json.dumps({"model": os.fspath(trained.relative_to(folder))})
        (folder / RESULT).write_text(result + "\n", encoding="utf-8")


def plan_training(training: Training, merger: Mapping[str, Any], seed: int) -> TrainingJob:
    """The job that trains a merger with a seed.

    Raises:
        RecipeError: All that is wrong with the recipe or its settings.
        ValueError: There is no such recipe, or it leaves the merger untrained.
    """
    values = _values(training)
    staged = "stages" in values
    where = values if staged else values.setdefault("optimisation", {})
    where["seed"] = seed
    values.setdefault("vtc", {})["merger"] = dict(merger)
    values.setdefault("output", {})["folder"] = MODEL
    label = f"recipe {training.recipe!r}"
    if staged:
        from vtc_recipes.tiny.config import parse_tiny

        if training.processes > 1:
            raise ValueError(f"{label} trains in one process; set processes: 1")
        return TrainingJob(training.recipe, asdict(parse_tiny(values, label)), staged, 1)
    from vtc_recipes.config import parse_recipe

    recipe = parse_recipe(values, label)
    if registry.build_part("merger", merger).needs_training and recipe.train.merger.how != "full":
        raise ValueError(
            f"{label} leaves merger {merger['name']!r} untrained; add train.merger.how=full to "
            "its settings"
        )
    return TrainingJob(training.recipe, asdict(recipe), staged, training.processes)


def trained_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Selector and merger that a recipe trains a model with; its encoder is saved with it.

    Raises:
        RecipeError: What is wrong with the mapping, or with its settings.
        ValueError: There is no such recipe.
    """
    parts = _values(parse_training(model)).get("vtc") or {}
    return {"selector": parts.get("selector", "dks"), "merger": parts.get("merger", "dfm")}


def parse_training(model: Mapping[str, Any]) -> Training:
    """The mapping of a model that is to be trained.

    Raises:
        RecipeError: All that is wrong with it.
    """
    errors: list[str] = []
    training = read(Training, model, "model", errors)
    if training is None:
        raise RecipeError("the model", errors)
    return training


def trained_model(folder: Path) -> Path:
    """The folder of the model that a finished training left."""
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return folder / str(result["model"])


def _values(training: Training) -> dict[str, Any]:
    path = find_config(training.recipe, "training")
    return apply_overrides(load_yaml(path), training.settings)


def _has_checkpoint(folder: Path) -> bool:
    from vtc_recipes.training import last_checkpoint

    return last_checkpoint(folder) is not None


def _train(values: Mapping[str, Any], staged: bool, resume: bool) -> Path:
    if staged:
        from vtc_recipes.tiny import stages
        from vtc_recipes.tiny.config import parse_tiny

        return stages.train(parse_tiny(values, "the recipe"), resume=resume)
    from vtc_recipes.config import parse_recipe
    from vtc_recipes.training import train

    return train(parse_recipe(values), resume=resume)


def _launch(file: Path, processes: int, resume: bool, folder: Path, lease: Lease) -> None:
    """Train with torchrun, until it is done or the lease is lost."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-m", *torchrun, "-m", "vtc.cli", "train", os.fspath(file)]
    with (folder / "train.log").open("ab") as log:
        running = subprocess.Popen(
            [*command, *(["--resume"] if resume else [])], stdout=log, stderr=log
        )
        try:
            while running.poll() is None:
                lease.check()
                try:
                    running.wait(1.0)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            running.terminate()
            running.wait()
    if running.returncode:
        raise RuntimeError(f"torchrun failed with {running.returncode}: see {folder / 'train.log'}")
