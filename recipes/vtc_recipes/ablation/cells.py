"""A cell: one configuration with a seed, named by a hash of its contents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtc.pipeline.budget import require_mergeable
from vtc.plugins import registry
from vtc_recipes.ablation.config import Setting
from vtc_recipes.ablation.hashing import digest
from vtc_recipes.ablation.models import (
    SHIPPED,
    WITH_CHOICES,
    encoder_identity,
    model_identity,
    saved_parts,
    trained_merger,
    untrained,
)
from vtc_recipes.ablation.questions import check_prompt, check_task
from vtc_recipes.ablation.trainings import (
    TrainingJob,
    parse_training,
    plan_training,
    trained_model,
)
from vtc_recipes.schema import RecipeError


@dataclass(frozen=True)
class Cell:
    """One configuration with a seed.

    Attributes:
        setting: The configuration; parts are mappings with all options.
        training: The job that trains the model; None for an existing model.
        config: Everything that determines the results, as plain JSON: the setting, with
            fingerprints of files in place of folder names.
    """

    setting: Setting
    training: TrainingJob | None
    config: dict[str, Any]

    @property
    def id(self) -> str:
        """The name of the cell and of its folder: a hash of `config`."""
        return digest(self.config)

    @property
    def label(self) -> str:
        """Return a label such as ``dks + dfm, seed 0``."""
        setting = self.setting
        return f"{setting.selector['name']} + {setting.merger['name']}, seed {setting.seed}"

    @property
    def prompt(self) -> str:
        """The prompt, with ``{question}`` and ``{choices}``."""
        return str(self.config["prompt"])

    def source(self, trainings: Path) -> str:
        """Return the name or folder of the model, for `models.open_for`."""
        if self.training is None:
            return str(self.setting.model)
        return str(trained_model(trainings / self.training.id))


def make_cell(setting: Setting, errors: list[str]) -> Cell | None:
    """Build the cell of a configuration.

    Args:
        errors: A list to which errors are appended.

    Returns:
        None if there are errors.
    """
    before = len(errors)
    errors += check_task(setting.task)
    training, encoder = None, setting.encoder
    model: dict[str, Any] = {}
    try:
        if setting.budget is not None:
            merger = registry.build_part("merger", setting.merger)
            require_mergeable(merger, registry.label_of("merger", merger))
        if isinstance(setting.model, str):
            model = _existing_model(setting)
            encoder = encoder or saved_parts(setting.model)["encoder"]
            if encoder is None:
                raise ValueError(
                    f"model {setting.model!r} was saved with a frame encoder that was an object; "
                    "name one in base.encoder"
                )
        else:
            training = plan_training(parse_training(setting.model), setting.merger, setting.seed)
            model = {"training": training.id}
        encoder_id = None if encoder is None else encoder_identity(encoder)
    except RecipeError as error:
        errors += error.problems
    except (ValueError, TypeError, OSError) as error:
        errors.append(str(error))
    if len(errors) > before:
        return None
    learned = setting.model == SHIPPED or (training is not None and training.staged)
    task = setting.task.plain()
    if setting.task.file is not None:  # its contents, not its path, determine the results
        task["file"] = digest(Path(setting.task.file).read_text(encoding="utf-8"))
    prompt = setting.prompt or ("{question}" if learned else WITH_CHOICES)
    if problems := check_prompt(setting.task, prompt):
        errors += problems
        return None
    if task["fps"] is None:
        del task["fps"]  # older cells were hashed without it
    plain = setting.plain()
    if plain["budget"] is None:
        del plain["budget"]  # likewise
    config = {
        **plain,
        "task": task,
        "model": model,
        "encoder": encoder_id,
        "prompt": prompt,
    }
    return Cell(setting, training, config)


def _existing_model(setting: Setting) -> dict[str, Any]:
    name = setting.model
    identity = model_identity(name)
    merger = setting.merger["name"]
    if registry.build_part("merger", setting.merger).needs_training:
        if trained_merger(name) != merger:
            raise ValueError(untrained(merger, name))
    return identity
