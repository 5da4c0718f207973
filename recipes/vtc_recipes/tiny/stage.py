"""What a stage of the tiny models' training is: batches by number, a loss, and gates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from vtc.plugins.sections import read_json
from vtc_recipes.schema import Row
from vtc_recipes.tiny.config import StageSettings, TinyRecipe


class Stage(ABC):
    """One stage. A subclass builds ``model`` from what the stages before it saved.

    A batch depends on the seed and its number alone, so a run that was stopped goes on exactly.

    Args:
        settings: Of this stage.
        recipe: The whole; its seed makes everything that is drawn.
        folder: Of the run; each stage saves in a folder of its name there.

    Attributes:
        name: As recipes have it.
        needs: The stages whose results this one starts from.
        gated: The numbers that a recipe may set gates for.
        takes_parts: Whether what ``vtc.wrap`` adds makes a difference.
        model: What is trained; checkpoints hold it.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    gated: ClassVar[tuple[str, ...]]
    takes_parts: ClassVar[bool] = False
    model: nn.Module

    def __init__(self, settings: StageSettings, recipe: TinyRecipe, folder: Path) -> None:
        self.settings, self.seed, self.folder = settings, recipe.seed, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)

    def matrices(self) -> list[nn.Parameter]:
        """The weights that Muon trains, none by default; AdamW trains all others."""
        return []

    @abstractmethod
    def batch(self, number: int) -> Mapping[str, Any]:
        """What is learned from in one step."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of a batch, a scalar."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """What was learned, on scenes of the validation split, as shares of one."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was trained, for the next stages or for users."""


class StageMetrics(Row):
    """``STAGE.json``, which a finished stage writes."""

    model_config = ConfigDict(extra="allow")

    seed: int
    settings: dict[str, Any]
    vtc: dict[str, Any]
    measured: dict[str, float]


def read_metrics(folder: Path, stage: str) -> dict[str, Any] | None:
    """What a stage wrote when it was done; None where it is not."""
    file = folder / f"{stage}.json"
    if not file.is_file():
        return None
    return read_json(file, StageMetrics).plain()


def require_gates(settings: StageSettings, measured: Mapping[str, float]) -> None:
    """Go on only from a stage that reached its gates.

    Raises:
        ValueError: It did not.

    >>> require_gates(StageSettings(name="pretext", gates={"shape": 0.9}, ...), {"shape": 0.8})
    ValueError: the stage 'pretext' failed its gates: shape is 0.8, needed is 0.9; ...
    """
    failed = [
        f"{name} is {measured[name]:.4g}, needed is {least:g}"
        for name, least in settings.gates.items()
        if measured[name] < least
    ]
    if failed:
        raise ValueError(
            f"the stage {settings.name!r} failed its gates: {'; '.join(failed)}; train it longer, "
            "in another output.folder, before what comes after it"
        )
