"""The recipe of the tiny models: stages one after another, and the gates between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vtc_recipes.reading import at_least_0, fraction, positive
from vtc_recipes.training.config import Output, part


@dataclass(frozen=True, kw_only=True)
class StageSettings:
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
    steps: int = positive()
    batch: int = positive()
    learning_rate: float = positive()
    warmup: float = fraction(0.03)
    scenes: int = positive(6000)
    gates: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What ``vtc.wrap`` adds to the language model; its frame encoder is the dual encoder.

    Attributes:
        selector: Saved with the model; it is trained with other numbers of keyframes as well.
        merger: Trained with the model, where it has parameters.
        connector: ``separate`` gives merged frames a projector of their own (Eq. 11 of ViLAMP);
            ``trained`` merges them from the dual encoder's patches (the fast path).
    """

    selector: Any = part("selector", "dks")
    merger: Any = part("merger", "dfm")
    connector: Literal["stock", "separate", "encoder_patches", "trained"] = "stock"


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """The whole: ``stages`` in their order, the seed of all of them, and where results go."""

    stages: tuple[StageSettings, ...]
    vtc: Parts = Parts()
    seed: int = at_least_0(0)
    output: Output
