"""The interface of a training stage: numbered batches, a loss, metrics, and gates."""

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
    """One stage. A subclass builds ``model`` from the results of earlier stages.

    A batch depends only on the seed and its number, so a resumed run equals an uninterrupted one.

    Args:
        settings: Settings of this stage.
        recipe: The whole recipe; the stage's seed determines all random draws.
        folder: Folder of the run; each stage saves to a subfolder of its name.

    Attributes:
        name: Name in recipes.
        needs: Stages whose results this one starts from.
        gated: Metrics for which a recipe may set gates.
        takes_parts: Whether the parts of ``vtc.wrap`` change the result.
        needs_budget: Whether it needs a budget among those parts, with a number of tokens.
        model: The trained module, saved in checkpoints.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    gated: ClassVar[tuple[str, ...]]
    takes_parts: ClassVar[bool] = False
    needs_budget: ClassVar[bool] = False
    model: nn.Module

    def __init__(self, settings: StageSettings, recipe: TinyRecipe, folder: Path) -> None:
        self.settings, self.seed, self.folder = settings, recipe.seed_of(settings), folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights that Muon trains, none by default; AdamW trains the others."""
        return []

    @abstractmethod
    def batch(self, number: int) -> Mapping[str, Any]:
        """Draw the batch of one step."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the loss of a batch, a scalar."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Return metrics on scenes of the validation split, 0 to 1."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Save the result for the next stages or for users."""


class StageStart(Row):
    """The settings of a stage, which it writes beside its checkpoints before the first step."""

    model_config = ConfigDict(extra="allow")

    seed: int
    settings: dict[str, Any]
    vtc: dict[str, Any]


class StageMetrics(StageStart):
    """``STAGE.json``, which a finished stage writes."""

    measured: dict[str, float]


def read_start(file: Path) -> dict[str, Any]:
    """Read the settings that an unfinished stage was started with."""
    return read_json(file, StageStart).plain()


def read_metrics(folder: Path, stage: str) -> dict[str, Any] | None:
    """Read the record of a finished stage; None if it is not finished."""
    file = folder / f"{stage}.json"
    if not file.is_file():
        return None
    return read_json(file, StageMetrics).plain()


def require_gates(settings: StageSettings, measured: Mapping[str, float]) -> None:
    """Check that a stage reached its gates.

    Raises:
        ValueError: A metric is below its gate.

    >>> require_gates(StageSettings(name="pretext", gates={"shape": 0.9}, ...), {"shape": 0.8})
    ValueError: the stage 'pretext' failed its gates: expected shape >= 0.9, got 0.8; ...
    """
    failed = [
        f"expected {name} >= {least:g}, got {measured[name]:.4g}"
        for name, least in settings.gates.items()
        if measured[name] < least
    ]
    if failed:
        raise ValueError(
            f"the stage {settings.name!r} failed its gates: {'; '.join(failed)}; train it longer "
            "in another output.folder"
        )
