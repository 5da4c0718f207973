"""What one cell of a grid is: a configuration, as frozen dataclasses with their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vtc_recipes.reading import at_least_0, option, positive
from vtc_recipes.synthetic.questions import KINDS
from vtc_recipes.training.config import part

ASKED = ("colour", "first", "last", "after")
"""The kinds of questions that the tiny models learn."""


def _kinds() -> Any:
    known = ", ".join(KINDS)
    return option(ASKED, lambda kinds: kinds and set(kinds) <= KINDS.keys(), f"some of {known}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked.

    Attributes:
        name: ``questions`` about random synthetic videos; ``needles`` in haystacks, as those of
            ``vtc niah``; ``cases`` of such needles, from a file; or ``videos``, questions about
            videos of your own, from a file.
        examples: Questions of each seed; of needles, at each depth. Those of a file are all asked.
        frames: Of a video.
        kinds: Of questions, in turn.
        depths: How many, evenly from front to end, needles have.
        needle_frames: Of a needle.
        size: Height and width of synthetic frames in pixels.
        split: Of synthetic scenes.
        file: Of cases (docs/niah.md) or of questions about videos (docs/ablation.md), which are
            the same for every seed.
    """

    name: Literal["questions", "needles", "cases", "videos"] = "questions"
    examples: int = positive(100)
    frames: int = positive(64)
    kinds: tuple[str, ...] = _kinds()
    depths: int = positive(5)
    needle_frames: int = positive(16)
    size: int = positive(48)
    split: Literal["train", "validation", "test"] = "test"
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """A recipe that makes the model of a cell, once for each merger and seed.

    Attributes:
        recipe: As ``vtc train`` takes it.
        settings: Likewise: ``stages.0.steps=10``. The grid sets merger, seed and folder.
        launch: What starts it in processes of its own: ``torchrun --nproc-per-node 8``, or
            ``accelerate launch ...``; without it, the worker trains itself.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    launch: str = ""


def _model_problem() -> Any:
    return option(
        None,
        lambda value: isinstance(value, (str, Mapping)),
        "a folder, a name, shipped, tiny:FAMILY, or {recipe: NAME, settings: [...]}",
    )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One configuration with one seed.

    Attributes:
        model: ``shipped``, the tiny model that comes with its weights; a folder; a name on the
            hub; ``tiny:FAMILY``, random weights; or a mapping, see `Training`.
        selector, merger: A name or a mapping; None for what the model was saved with, or what its
            recipe trains. What a recipe trains is this merger, and its own selector.
        encoder: The frame encoder; None for the one that the model was saved with.
        task: What is asked.
        prompt: With ``{question}`` and ``{choices}``; None for the question alone where the model
            learned to answer so (``shipped``, the tiny recipes), with the choices elsewhere.
        max_new_tokens: Of an answer.
        dtype: Of the weights.
        seed: Of a training, and of the questions: each seed has its own.
    """

    model: Any = _model_problem()
    selector: Any = part("selector", None)
    merger: Any = part("merger", None)
    encoder: str | None = None
    task: Task = Task()
    prompt: str | None = None
    max_new_tokens: int = positive(8)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: int = at_least_0(0)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A grid as its YAML file says it.

    Attributes:
        base: A `Setting`, with ``seeds`` instead of its seed.
        axes: Values by dotted name (``selector.keyframes``, ``task.frames``), or by the short name
            of an option or of a field of the task; with ``combine: list`` a list of mappings.
        combine: ``product``, every value with every other; ``zip``, the first values together,
            then the second ones; ``list``, the mappings one by one.
        note: What readers of the report should know.
        lease_seconds: A job whose worker has not been heard of for so long goes to another.
    """

    base: Any = option(None, lambda value: isinstance(value, Mapping), "a mapping")
    axes: Any = option(None, lambda value: isinstance(value, (Mapping, list)), "a mapping")
    combine: Literal["product", "zip", "list"] = "product"
    note: str = ""
    lease_seconds: float = positive(60.0)
