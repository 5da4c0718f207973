"""Models that a grid trains: one job for each merger and seed, however many cells need it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vtc.plugins import registry
from vtc_recipes.ablation.config import Training
from vtc_recipes.ablation.hashing import digest
from vtc_recipes.ablation.leases import Lease
from vtc_recipes.reading import apply_overrides, load_yaml, read
from vtc_recipes.schema import RecipeError
from vtc_recipes.shipped import find_config

MODEL = "model"
"""The folder of a training that its recipe writes to."""
RESULT = "result.json"
_COMMAND = ("-m", "vtc.cli", "train")
_WIDTH = 64
"""Of patches and queries, to see whether a merger makes parameters."""


@dataclass(frozen=True)
class TrainingJob:
    """One training: a recipe with all its values but the folder.

    Attributes:
        recipe: Its name, for people.
        values: As ``vtc train`` reads them.
        staged: Whether it has stages, as the tiny models' recipes have.
        launch: See `Training`.
    """

    recipe: str
    values: dict[str, Any]
    staged: bool
    launch: str

    @property
    def id(self) -> str:
        """Its name, by its contents."""
        return digest({**self.values, "output": None, "launch": self.launch})

    @property
    def kind(self) -> tuple[str, int]:
        """Trainings of one kind take about the same time: the recipe, and how many stages."""
        return self.recipe, len(self.values.get("stages", ()))

    @property
    def shared(self) -> TrainingJob | None:
        """The first stages, if no part makes a difference to them: trained once for all mergers."""
        if not self.staged:
            return None
        from vtc_recipes.tiny.stages import STAGES

        stages = self.values["stages"]
        first = [stage for stage in stages if not STAGES[stage["name"]].takes_parts]
        if not first or first != stages[: len(first)] or first == stages:
            return None
        return replace(self, values={**self.values, "stages": first, "vtc": {}})

    def missing(self) -> list[str]:
        """What is missing of its data; recipes with stages make theirs."""
        if self.staged:
            return []
        from vtc_recipes.training.config import parse_recipe
        from vtc_recipes.training.data import missing_files

        return missing_files(parse_recipe(self.values, self.recipe).data.sources)

    def run(self, folder: Path, lease: Lease, trainings: Path) -> None:
        """Train into ``folder/model``, going on from what is there.

        Args:
            trainings: Holds what is `shared`, finished.

        Raises:
            LeaseLost: Another worker has taken over.
            RuntimeError: Processes of its own failed.
        """
        began, target = time.perf_counter(), folder / MODEL
        if self.shared is not None and not target.exists():
            partial = folder / f"{MODEL}.partial"
            shutil.copytree(trainings / self.shared.id / MODEL, partial, dirs_exist_ok=True)
            partial.rename(target)
        values = {**self.values, "output": {**self.values["output"], "folder": os.fspath(target)}}
        file = folder / "recipe.yaml"  # JSON is YAML
        file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        resume = self.staged or _has_checkpoint(target)
        if self.launch:
            trained = target
            _launch([*shlex.split(self.launch), *_COMMAND, os.fspath(file)], resume, folder, lease)
        else:
            trained = _train(values, self.staged, resume)
        lease.check()
        seconds = round(time.perf_counter() - began, 1)
        result = {"model": os.fspath(trained.relative_to(folder)), "seconds": seconds}
        (folder / RESULT).write_text(json.dumps(result) + "\n", encoding="utf-8")


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
        from vtc_recipes.tiny.reading import parse_tiny

        if training.launch:
            raise ValueError(f"{label} trains in one process; leave launch out")
        return TrainingJob(training.recipe, _plain(parse_tiny(values, label)), staged, "")
    from vtc_recipes.training.config import parse_recipe

    part = registry.build_part("merger", merger)
    if not _has_parameters(part):  # the recipe may be for one that has
        values.setdefault("train", {})["merger"] = {"how": "frozen"}
    recipe = parse_recipe(values, label)
    if part.needs_training and recipe.train.merger.how != "full":
        raise ValueError(
            f"{label} leaves merger {merger['name']!r} untrained; add train.merger.how=full to "
            "its settings"
        )
    return TrainingJob(training.recipe, _plain(recipe), staged, training.launch)


def trained_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Selector and merger that a recipe trains a model with.

    Its encoder is saved with it by name, and ``None`` here; but for ``tiny``, which is an object.

    Raises:
        RecipeError: What is wrong with the mapping, or with its settings.
        ValueError: There is no such recipe.
    """
    parts = _values(parse_training(model)).get("vtc") or {}
    return {
        "selector": parts.get("selector", "dks"),
        "merger": parts.get("merger", "dfm"),
        "encoder": "tiny" if parts.get("encoder") == "tiny" else None,
    }


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


def _plain(recipe: Any) -> dict[str, Any]:
    """A recipe as YAML has it, with lists for tuples."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values


def _has_checkpoint(folder: Path) -> bool:
    from vtc_recipes.training.run import last_checkpoint

    return last_checkpoint(folder) is not None


def _train(values: Mapping[str, Any], staged: bool, resume: bool) -> Path:
    if staged:
        from vtc_recipes.tiny import stages
        from vtc_recipes.tiny.reading import parse_tiny

        return stages.train(parse_tiny(values, "the recipe"), resume=resume)
    from vtc_recipes.training.config import parse_recipe
    from vtc_recipes.training.run import train

    return train(parse_recipe(values), resume=resume)


def _has_parameters(merger: Any) -> bool:
    merger.build(_WIDTH, _WIDTH)
    return any(True for _ in merger.parameters())


def _launch(command: list[str], resume: bool, folder: Path, lease: Lease) -> None:
    """Train in other processes, until they are done or the lease is lost."""
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
        raise RuntimeError(
            f"{command[0]} ended with {running.returncode}: see {folder / 'train.log'}"
        )
