"""The recipe of the tiny models: stages one after another, and the gates between them."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from vtc_recipes.schema import Connector, Fraction, Items, Merger, Section, Selector
from vtc_recipes.training.config import Output


class StageSettings(Section):
    """One stage.

    Attributes:
        name: Which one.
        steps: How many, each of a batch.
        batch: Frames in a batch of a tower's stage, tokens (about) in one of the language model's.
        learning_rate: The highest: a linear warm-up leads there, a cosine down to a tenth.
        warmup: The part of all steps in which it rises.
        scenes: How many of the training split are learned from.
        gates: The least of what is measured in the end, as shares of one; without it the stages
            behind do not start.
    """

    name: Literal["pretext", "dual_encoder", "captions", "answers", "long_answers"]
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat
    warmup: Fraction = 0.03
    scenes: PositiveInt = 6000
    gates: dict[str, float]


class Parts(Section):
    """What ``vtc.wrap`` adds to the language model; its frame encoder is the dual encoder.

    Attributes:
        selector: Saved with the model; it is trained with other numbers of keyframes as well.
        merger: Trained with the model, where it has parameters.
        connector: ``separate`` gives merged frames a projector of their own (Eq. 11 of ViLAMP);
            ``encoder_patches`` merges the dual encoder's patches (the fast path).
    """

    selector: Selector = "dks"
    merger: Merger = "dfm"
    connector: Connector = "stock"


class TinyRecipe(Section):
    """The whole: ``stages`` in their order, the seed of all of them, and where results go."""

    stages: Items[StageSettings]
    vtc: Parts = Parts()
    seed: NonNegativeInt = 0
    output: Output
