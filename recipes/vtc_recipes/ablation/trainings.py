"""Models that a grid trains: one job per merger and seed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vtc.plugins import registry
from vtc.plugins.sections import read_json
from vtc_recipes.ablation.config import Training
from vtc_recipes.ablation.hashing import digest
from vtc_recipes.reading import load_yaml
from vtc_recipes.schema import Row, parse
from vtc_recipes.shipped import find_config
from vtc_recipes.training.checkpoints import has_checkpoint
from vtc_recipes.training.config import apply_settings

MODEL = "model"
"""The subfolder of a training to which its recipe writes."""
RESULT = "result.json"
_COMMAND = ("-m", "vtc.cli", "train")
_WIDTH = 64
"""Width of patches and queries when testing whether a merger has parameters."""


@dataclass(frozen=True)
class TrainingJob:
    """A training: a recipe with all its values except the folder.

    Attributes:
        recipe: The name of the recipe.
        values: The values, in the form that ``vtc train`` reads.
        staged: Whether the recipe has stages, like those of the tiny models.
        launch: See `Training`.
    """

    recipe: str
    values: dict[str, Any]
    staged: bool
    launch: str

    @property
    def id(self) -> str:
        """The name of the job: a hash of its values."""
        values = {**self.values, "output": None, "launch": self.launch}
        parts = _with_old_names(values["vtc"])
        if self.staged:  # without later options, so that older trainings keep their ids
            values["stages"] = [_without(stage, "seed") for stage in values["stages"]]
            parts = _without(parts, "budget")
        return digest({**values, "vtc": parts})

    @property
    def kind(self) -> tuple[str, int]:
        """Recipe and number of stages; trainings of one kind take about the same time."""
        return self.recipe, len(self.values.get("stages", ()))

    @property
    def shared(self) -> TrainingJob | None:
        """The first stages if they do not depend on the parts; trained once for all mergers.

        If all of them have a seed of their own, they are trained once for all seeds too.
        """
        if not self.staged:
            return None
        from vtc_recipes.tiny.stages import takes_parts

        stages = self.values["stages"]
        first = [stage for stage in stages if not takes_parts(stage)]
        if not first or first != stages[: len(first)] or first == stages:
            return None
        return replace(self, values=_without_parts({**self.values, "stages": first}))

    def missing(self) -> list[str]:
        """Return a line for each missing data file; staged recipes generate their data."""
        if self.staged:
            return []
        from vtc_recipes.training.config import parse_recipe
        from vtc_recipes.training.data import missing_files

        return missing_files(parse_recipe(self.values, self.recipe).data.sources)

    def run(self, folder: Path, trainings: Path) -> None:
        """Train into ``folder/model``; resume if it holds a checkpoint.

        Args:
            trainings: The folder with the finished `shared` stages.

        Raises:
            RuntimeError: The launched processes failed.
        """
        start, target = time.perf_counter(), folder / MODEL
        if self.shared is not None and not target.exists():
            partial = folder / f"{MODEL}.partial"
            shutil.copytree(trainings / self.shared.id / MODEL, partial, dirs_exist_ok=True)
            partial.rename(target)
        values = {**self.values, "output": {**self.values["output"], "folder": os.fspath(target)}}
        file = folder / "recipe.yaml"  # JSON is YAML
        file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        resume = self.staged or has_checkpoint(target)
        if self.launch:
            trained = target
            _launch([*shlex.split(self.launch), *_COMMAND, os.fspath(file)], resume, folder)
        else:
            trained = _train(values, self.staged, resume)
        seconds = round(time.perf_counter() - start, 1)
        result = {"model": os.fspath(trained.relative_to(folder)), "seconds": seconds}
        (folder / RESULT).write_text(json.dumps(result) + "\n", encoding="utf-8")


def plan_training(training: Training, merger: Mapping[str, Any], seed: int) -> TrainingJob:
    """Return the job that trains a merger with a seed.

    Raises:
        RecipeError: All errors in the recipe or its settings.
        ValueError: There is no such recipe, or it leaves the merger untrained.
    """
    values = _values(training)
    staged = "stages" in values
    where = values if staged else values.setdefault("optimisation", {})
    where["seed"] = seed
    values.setdefault("vtc", {})["merger"] = dict(merger)
    values.setdefault("output", {})["folder"] = MODEL
    label = f"recipe {training.recipe!r}"
    part = registry.build_part("merger", merger)
    if staged:
        from vtc_recipes.tiny.reading import parse_tiny
        from vtc_recipes.tiny.stages import require_language_model, takes_parts

        if training.launch:
            raise ValueError(f"{label} trains in one process; remove launch")
        if training.last_stage:
            values["stages"] = _stages_up_to(training.last_stage, values["stages"], label)
        learns = any(takes_parts(stage) for stage in values["stages"])
        if part.needs_training and not learns:
            raise ValueError(
                f"{label} leaves merger {merger['name']!r} untrained; use stages that train it"
            )
        if not learns:
            del values["vtc"]
        plain = parse_tiny(values, label).plain()
        require_language_model(plain["stages"][-1]["name"], label)
        plain = plain if learns else _without_parts(plain)
        return TrainingJob(training.recipe, plain, staged, "")
    from vtc_recipes.training.config import parse_recipe

    if training.last_stage:
        raise ValueError(f"{label} has no stages; remove last_stage")
    if not _has_parameters(part):  # the recipe may train a merger with parameters
        values.setdefault("train", {})["merger"] = {"how": "frozen"}
    recipe = parse_recipe(values, label)
    if part.needs_training and recipe.train.merger.how != "full":
        raise ValueError(
            f"{label} leaves merger {merger['name']!r} untrained; add train.merger.how=full to "
            "its settings"
        )
    return TrainingJob(training.recipe, recipe.plain(), staged, training.launch)


def trained_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the selector and the merger that a recipe trains a model with.

    The encoder is None because the model is saved with its name, except for ``tiny``, an object.

    Raises:
        RecipeError: All errors in the mapping or its settings.
        ValueError: There is no such recipe.
    """
    parts = _values(parse_training(model)).get("vtc") or {}
    return {
        "selector": parts.get("selector", "dks"),
        "merger": parts.get("merger", "dfm"),
        "encoder": "tiny" if parts.get("encoder") == "tiny" else None,
    }


def parse_training(model: Mapping[str, Any]) -> Training:
    """Parse the mapping of a model that the grid trains.

    Raises:
        RecipeError: All errors in it.
    """
    return parse(Training, model, "the model", "model")


class Result(Row):
    """``result.json`` of a finished training: the model's subfolder and the time."""

    model: str
    seconds: float


def read_result(folder: Path) -> Result:
    """Read ``result.json``.

    Raises:
        ValueError: The file is damaged.
    """
    return read_json(folder / RESULT, Result)


def trained_model(folder: Path) -> Path:
    """Return the model's folder in a finished training."""
    return folder / read_result(folder).model


def _values(training: Training) -> dict[str, Any]:
    path = find_config(training.recipe, "training")
    return apply_settings(load_yaml(path), training.settings)


def _stages_up_to(
    last: str, stages: Sequence[Mapping[str, Any]], label: str
) -> Sequence[Mapping[str, Any]]:
    names = [stage.get("name") for stage in stages]
    if last not in names:
        raise ValueError(
            f"expected last_stage to be a stage of {label}, one of "
            f"{', '.join(map(repr, names))}, got {last!r}"
        )
    return stages[: names.index(last) + 1]


def _without_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of stages that do not depend on parts, the same for all mergers.

    If all stages have a seed of their own, they are the same for all seeds too.
    """
    own = all(stage.get("seed") is not None for stage in values["stages"])
    return {**values, "vtc": {}, "seed": 0 if own else values["seed"]}


def _with_old_names(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section with its old names, so that trainings in older folders keep their ids."""
    old = {"chunk_slices": "chunk_frames"}
    values = {old.get(name, name): value for name, value in parts.items()}
    if values.get("connector") == "encoder_patches":
        values["connector"] = "trained"
    return values


def _without(values: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Return values without an option that is None."""
    return {name: value for name, value in values.items() if (name, value) != (option, None)}


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


def _launch(command: list[str], resume: bool, folder: Path) -> None:
    """Train in separate processes."""
    with (folder / "train.log").open("ab") as log:
        running = subprocess.Popen(
            [*command, *(["--resume"] if resume else [])], stdout=log, stderr=log
        )
        try:
            running.wait()
        finally:
            running.terminate()
            running.wait()
    if running.returncode:
        raise RuntimeError(
            f"{command[0]} exited with {running.returncode}; see {folder / 'train.log'}"
        )
