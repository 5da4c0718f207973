"""One cell: a configuration with a seed, and the name that its contents give it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtc.plugins import registry
from vtc_recipes.ablation.config import Setting
from vtc_recipes.ablation.hashing import digest
from vtc_recipes.ablation.models import (
    SHIPPED,
    WITH_CHOICES,
    encoder_identity,
    identity,
    model_folder,
    saved_parts,
    trained_merger,
    untrained,
)
from vtc_recipes.ablation.questions import check_task
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
        setting: With parts as mappings of all their options.
        training: What makes the model; None where it is there.
        config: What makes results what they are, in plain JSON: the setting, with files instead
            of the names of folders.
    """

    setting: Setting
    training: TrainingJob | None
    config: dict[str, Any]

    @property
    def id(self) -> str:
        """Its name, by its contents; the name of its folder too."""
        return digest(self.config)

    @property
    def label(self) -> str:
        """``dks + dfm, seed 0``"""
        setting = self.setting
        return f"{setting.selector['name']} + {setting.merger['name']}, seed {setting.seed}"

    @property
    def prompt(self) -> str:
        """What to ask, with ``{question}`` and ``{choices}``."""
        return str(self.config["prompt"])

    def source(self, trainings: Path) -> str:
        """The name or folder of the model, for `models.open_for`."""
        if self.training is None:
            return str(self.setting.model)
        return str(trained_model(trainings / self.training.id))


def make_cell(setting: Setting, errors: list[str]) -> Cell | None:
    """The cell of a configuration.

    Args:
        errors: What is wrong is appended to it.

    Returns:
        None where something is wrong.
    """
    before = len(errors)
    errors += check_task(setting.task)
    training, encoder = None, setting.encoder
    model: dict[str, Any] = {}
    try:
        if isinstance(setting.model, str):
            model = _given_model(setting)
            encoder = encoder or saved_parts(setting.model)["encoder"]
            if encoder is None:
                raise ValueError(
                    f"model {setting.model!r} was saved with a frame encoder that was an object; "
                    "name one in base.encoder"
                )
        else:
            wanted = parse_training(setting.model)
            training = plan_training(wanted, setting.merger, setting.seed)
            model = {"training": training.id}
        seen_by = None if encoder is None else encoder_identity(encoder)
    except RecipeError as error:
        errors += error.problems
    except (ValueError, TypeError, OSError) as error:
        errors.append(str(error))
    if len(errors) > before:
        return None
    learned = setting.model == SHIPPED or (training is not None and training.staged)
    task = asdict(setting.task)
    if setting.task.file is not None:  # its contents make results what they are
        task["file"] = digest(Path(setting.task.file).read_text(encoding="utf-8"))
    config = {
        **asdict(setting),
        "task": task,
        "model": model,
        "encoder": seen_by,
        "prompt": setting.prompt or ("{question}" if learned else WITH_CHOICES),
    }
    return Cell(setting, training, config)


def _given_model(setting: Setting) -> dict[str, Any]:
    name = setting.model
    folder = model_folder(name)
    merger = setting.merger["name"]
    if registry.build_part("merger", setting.merger).needs_training:
        if trained_merger(name) != merger:
            raise ValueError(untrained(merger, name))
    return identity(name, folder)
