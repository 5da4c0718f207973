"""The sections of a grid's YAML file, with the range of each value."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from vtc.interfaces.renamed import depth_of_caller
from vtc_recipes.schema import Items, OptionalBudget, OptionalMerger, OptionalSelector, Section
from vtc_recipes.synthetic import KINDS, STORIES

DEFAULT_KINDS = ("colour", "first", "last", "after")
"""The kinds of questions that the tiny models are trained on."""


def _expect(kinds: type | tuple[type, ...], expected: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise ValueError(f"expected {expected}, got {value!r}")
        return value

    return AfterValidator(check)


def _check_prompt(prompt: Any) -> Any:
    if not isinstance(prompt, str):  # YAML reads {question} without quotes as a mapping
        raise ValueError(f'expected text in quotes, such as "{{question}}", got {prompt!r}')
    try:
        names = {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
    except ValueError as error:
        raise ValueError(
            f"{prompt!r} is not a template: {error}; write {{{{ for a brace"
        ) from error
    if "question" not in names or names - {"question", "choices"}:
        raise ValueError(
            "expected a text with {question} and optionally {choices}, got " + repr(prompt)
        )
    return prompt


class Task(Section):
    """The questions of a grid.

    Attributes:
        name: ``questions`` about random synthetic videos; ``needles`` in haystacks, like those of
            ``vtc niah``; ``cases``, needles from a file; or ``videos``, questions from a file about
            your own videos.
        examples: Questions per seed, for ``needles`` per depth. Questions from a file are all
            asked.
        frames: The number of frames per video; with ``fps`` the maximum.
        fps: Frames to sample per second of your own videos; None for evenly spaced frames.
        kinds: The kinds of questions, used in turn.
        depths: The number of needle depths, spread evenly from start to end.
        needle_frames: The number of frames per needle.
        size: Height and width of synthetic frames in pixels.
        split: The split of the synthetic scenes.
        file: Cases (docs/niah.md) or questions about videos (docs/ablation.md); every seed asks the
            same ones.
    """

    name: Literal["questions", "needles", "cases", "videos"] = "questions"
    examples: PositiveInt = 100
    frames: PositiveInt = 64
    fps: PositiveFloat | None = None
    kinds: Items[str] = DEFAULT_KINDS
    depths: PositiveInt = 5
    needle_frames: PositiveInt = 16
    size: PositiveInt = 48
    split: Literal["train", "validation", "test"] = "test"
    file: str | None = None

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        known = [*KINDS, *STORIES]
        if not kinds or not {*kinds} <= {*known}:
            raise ValueError(f"expected some of {', '.join(known)}, got {list(kinds)}")
        return kinds


class Training(Section):
    """A recipe that trains the model of a cell, once for each merger and seed.

    Attributes:
        recipe: A name or file, as for ``vtc train``.
        settings: Overrides, as for ``vtc train``: ``stages.0.steps=10``. The grid sets merger, seed
            and folder.
        last_stage: The stage to stop after, for recipes with stages. If no stage up to it trains
            the merger, all mergers share one model.
        launch: A command that starts the training in other processes, such as ``torchrun
            --nproc-per-node 8`` or ``accelerate launch ...``; if empty, the worker itself trains.
    """

    recipe: str
    settings: Items[str] = ()
    last_stage: str = ""
    launch: str = ""


class Setting(Section):
    """One configuration with one seed.

    Attributes:
        model: ``shipped``, the tiny model that comes with its weights; a folder; a name on the
            hub; ``tiny:FAMILY``, random weights; or a mapping, see `Training`.
        selector, merger: A name or a mapping; None for the part that the model was saved with or
            that its recipe trains. A recipe trains this merger together with its own selector.
        budget: Of the visual tokens of a video, as `vtc.wrap` takes it; None for none. A recipe
            trains without one.
        encoder: The frame encoder; None for the one that the model was saved with.
        task: The questions.
        prompt: A template with ``{question}`` and ``{choices}``. None: the question alone for
            models trained on that form (``shipped``, the tiny recipes), question and choices for
            others.
        max_new_tokens: The maximum length of an answer.
        dtype: The dtype of the weights.
        seed: The seed of the training and of the questions.
    """

    model: Annotated[
        Any,
        _expect(
            (str, Mapping),
            "a folder, a name, shipped, tiny:FAMILY, or {recipe: NAME, settings: [...]}",
        ),
    ]
    selector: OptionalSelector = None
    merger: OptionalMerger = None
    budget: OptionalBudget = None
    encoder: str | None = None
    task: Task = Task()
    prompt: Annotated[Any, BeforeValidator(_check_prompt)] | None = None
    max_new_tokens: PositiveInt = 8
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: NonNegativeInt = 0


class Document(Section):
    """A whole grid file.

    Attributes:
        base: A `Setting`, with ``seeds`` instead of its seed.
        axes: Lists of values by dotted name (``selector.keyframes``, ``task.frames``) or by the
            short name of an option or task field; with ``combine: list`` a list of mappings.
        combine: ``product`` combines every value with every other; ``zip`` the first values of all
            axes, then the second values; ``list`` uses the mappings as they are.
        note: A sentence for readers of the report.
        lease_seconds: Deprecated, without effect.
    """

    base: Annotated[Any, _expect(Mapping, "a mapping")]
    axes: Annotated[Any, _expect((Mapping, list), "a mapping")]
    combine: Literal["product", "zip", "list"] = "product"
    note: str = ""
    lease_seconds: float | None = None

    @field_validator("lease_seconds")
    @classmethod
    def _warn(cls, value: float | None) -> None:
        message = "lease_seconds is deprecated and has no effect: the system frees locks; remove it"
        warnings.warn(message, DeprecationWarning, stacklevel=depth_of_caller())
