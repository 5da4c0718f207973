"""A training recipe: what a YAML file says, as frozen dataclasses with their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vtc_recipes.reading import (
    apply_overrides,
    at_least_0,
    fraction,
    load_yaml,
    option,
    positive,
    read,
)
from vtc_recipes.schema import RecipeError

Training = Literal["full", "lora", "frozen"]
SHIPPED = "shipped:"
"""What the names of the shipped tiny models begin with."""


def part(kind: str, default: str | None) -> Any:
    """A field for a selector or merger as ``vtc.wrap`` takes it, or None if that is the default."""

    def problem(value: Any) -> str:
        from vtc.plugins.registry import build_part

        if value is None and default is None:
            return ""
        try:
            build_part(kind, value)
        except (ValueError, TypeError, ImportError) as error:
            return str(error)
        return ""

    return field(default=default, metadata={"problem": problem})


def _name(shipped: str, default: Any = MISSING) -> Any:
    """A field for a name, a folder, or the one shipped model that fits here."""
    return option(
        default,
        lambda name: not name.startswith(SHIPPED) or name == SHIPPED + shipped,
        f"a name on the hub, a folder, or {SHIPPED + shipped!r}",
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The stock model.

    Attributes:
        name: A name on the hub, a folder (one that vtc saved as well), ``shipped:vlm``, the tiny
            trained model that comes with vtc, or ``tiny:FAMILY``, a model of ``vtc.testing`` with
            random weights.
        dtype: Of the weights in memory. Small learning rates vanish in bfloat16 weights: those
            that train in full should be float32, with ``precision: bfloat16``.
        attention: The implementation, as transformers names it.
    """

    name: str = _name("vlm")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """What ``vtc.wrap`` adds.

    Attributes:
        selector, merger: A name, or a mapping ``{name: dks, keyframes: 32}``.
        connector: ``separate`` gives merged frames a projector of their own (Eq. 11 of ViLAMP);
            ``trained`` merges them from the frame encoder's patches through a new one (the fast
            path).
        encoder: The frame encoder, as for ``vtc.wrap``; ``shipped:dual_encoder``, which knows
            what ``shipped:vlm`` knows; or ``tiny``, that of ``vtc.testing``.
        adapter: Options of the model's family.
        chunk_frames: Slices that the vision tower sees at a time.
    """

    selector: Any = part("selector", "dks")
    merger: Any = part("merger", "dfm")
    connector: Literal["stock", "separate", "encoder_patches", "trained"] = "stock"
    encoder: str = _name("dual_encoder", "open_clip:ViT-B-32/openai")
    adapter: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    chunk_frames: int = positive(16)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set on disk.

    Attributes:
        name: What messages call it.
        path: The JSON or JSONL file; None until the user sets it.
        format: ``llava_json`` or ``messages``, see docs/training.md.
        video_folder: Where relative video paths start; None for the folder of ``path``.
        fps: Frames to sample a second.
        max_frames: Where ``fps`` gives more, this many are spread evenly instead.
        share: The part of the samples to take, drawn by the seed; 0 leaves the source out.
    """

    name: str
    path: str | None = None
    format: Literal["llava_json", "messages"] = "llava_json"
    video_folder: str | None = None
    fps: float = positive(1.0)
    max_frames: int | None = positive(None)
    share: float = fraction(1.0)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data sets, read one after the other and shuffled together."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """How one part of the model trains."""

    how: Training = "frozen"
    learning_rate: float = positive(1e-5)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The low-rank matrices of all parts that train with LoRA."""

    rank: int = positive(64)
    alpha: float = positive(16.0)
    dropout: float = fraction(0.05)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Which parts train; what is neither tower, projector nor of vtc is ``language_model``."""

    merger: Part = Part()
    connector: Part = Part()
    projector: Part = Part()
    vision_tower: Part = Part()
    language_model: Part = Part()
    lora: Lora = Lora()

    def parts(self) -> Iterator[tuple[str, Part]]:
        """The parts with their names."""
        for entry in fields(self):
            if entry.name != "lora":
                yield entry.name, getattr(self, entry.name)


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW and its schedule.

    Attributes:
        epochs, steps: How long to train; exactly one of them.
        schedule: Of the learning rates, after the warm-up.
        warmup: The part of all steps in which the learning rates rise.
        batch_size: Samples a process reads at a time.
        accumulation: Batches for one step.
        precision: Of the computation, where it differs from that of the weights.
    """

    epochs: float | None = positive(None)
    steps: int | None = positive(None)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: float = option(0.03, lambda value: 0 <= value < 1, "a number from 0, below 1")
    weight_decay: float = at_least_0(0.0)
    max_gradient_norm: float = positive(1.0)
    batch_size: int = positive(1)
    accumulation: int = positive(1)
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    gradient_checkpointing: bool = True
    seed: int = at_least_0(0)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where results go.

    Attributes:
        folder: The trained model, and checkpoints in ``checkpoint-STEP``.
        save_steps: Steps from checkpoint to checkpoint.
        keep: Checkpoints kept; None for all.
        log_steps: Steps from one line of the log to the next.
    """

    folder: str
    save_steps: int = positive(500)
    keep: int | None = positive(2)
    log_steps: int = positive(10)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe; docs/training.md has an example."""

    model: Model
    vtc: Toolkit = Toolkit()
    data: Data
    train: Train
    optimisation: Optimisation
    output: Output


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        overrides: ``"optimisation.steps=10"``; a number stands for an entry of a list.

    Raises:
        RecipeError: All that is wrong with it.
    """
    return parse_recipe(apply_overrides(load_yaml(path), overrides), str(path))


def parse_recipe(values: Mapping[str, Any], label: str = "the recipe") -> Recipe:
    """Make a recipe of plain values; see `load_recipe`."""
    errors: list[str] = []
    recipe = read(Recipe, values, "", errors)
    if recipe is not None:
        errors += _contradictions(recipe)
    if recipe is None or errors:
        raise RecipeError(label, errors)
    return recipe


def _contradictions(recipe: Recipe) -> Iterator[str]:
    """What is wrong with values that are all right one by one."""
    if not recipe.data.sources:
        yield "data.sources: it is empty; name at least one"
    if (recipe.optimisation.epochs is None) == (recipe.optimisation.steps is None):
        yield "optimisation: set either epochs or steps, and the other one to null"
    ways = {name: part.how for name, part in recipe.train.parts()}
    if set(ways.values()) == {"frozen"}:
        yield "train: every part is frozen; set train.merger.how=full or another one"
    if ways["merger"] == "lora":
        yield "train.merger.how: 'lora': allowed is full or frozen, a merger is small"
    if ways["connector"] != "frozen" and recipe.vtc.connector == "stock":
        yield "train.connector.how: there is none to train; set vtc.connector=separate or trained"
    if "lora" in ways.values() and ways["language_model"] == "full":
        yield (
            "train.language_model.how: 'full' beside LoRA elsewhere would hold the language model "
            "twice; train it with lora, or the other parts in full"
        )
