"""The recipe of the tiny models: stages, with gates between them."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from vtc_recipes.schema import (
    Connector,
    Fraction,
    Items,
    Merger,
    OptionalBudget,
    Section,
    Selector,
)
from vtc_recipes.training.config import Output


class StageSettings(Section):
    """One stage.

    Attributes:
        name: Name of the stage.
        steps: Number of steps, each with one batch.
        batch: Batch size in frames for a tower, in approximate tokens for the language model.
        learning_rate: The peak rate, after a linear warm-up; a cosine decays it to a tenth.
        warmup: Fraction of all steps in the warm-up.
        scenes: Number of scenes of the training split.
        gates: Minimum of each metric, 0 to 1; below it the next stages do not start.
        seed: Seed of the stage; by default the recipe's. With one of its own, a stage is the same
            for all seeds of the recipe.
    """

    name: Literal[
        "pretext",
        "dual_encoder",
        "captions",
        "answers",
        "long_answers",
        "hour_answers",
        "queries",
        "stories",
        "long_stories",
        "final_stories",
        "evidence",
        "review",
        "hours",
    ]
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat
    warmup: Fraction = 0.03
    scenes: PositiveInt = 6000
    gates: dict[str, float]
    seed: NonNegativeInt | None = None


class Parts(Section):
    """The parts that ``vtc.wrap`` adds; the frame encoder is the dual encoder.

    Attributes:
        selector: The selector saved with the model; training also uses other numbers of keyframes.
        merger: The merger, trained with the model if it has parameters.
        connector: ``separate`` gives merged frames their own projector (Eq. 11 of ViLAMP);
            ``encoder_patches`` merges the dual encoder's patches (the fast path).
        budget: The budget of the videos of hours in the stage ``hours``; not saved with the model.
    """

    selector: Selector = "dks"
    merger: Merger = "dfm"
    connector: Connector = "stock"
    budget: OptionalBudget = None


class TinyRecipe(Section):
    """The whole recipe.

    Attributes:
        stages: The stages, in order.
        vtc: The parts that ``vtc.wrap`` adds to the language model.
        start: Folder of a run of ``tiny_vlm``, whose models the stages ``queries`` and ``stories``
            start from; ``shipped`` for the shipped models.
        seed: Seed of all stages without one of their own.
        output: Folder and frequency of results.
    """

    start: str = "shipped"
    stages: Items[StageSettings]
    vtc: Parts = Parts()
    seed: NonNegativeInt = 0
    output: Output

    def seed_of(self, stage: StageSettings) -> int:
        """Return the seed of a stage."""
        return self.seed if stage.seed is None else stage.seed
