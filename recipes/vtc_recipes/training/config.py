"""A training recipe: the sections of its YAML file, with the range of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from vtc_recipes.reading import apply_overrides, load_yaml
from vtc_recipes.schema import Connector, Fraction, Items, Merger, Section, Selector, parse

Training = Literal["full", "lora", "frozen"]
Format = Literal[
    "llava_json",
    "messages",
    "webvid",
    "internvid",
    "openvid",
    "vript",
    "videochat2_it",
    "egotaskqa",
    "clevrer",
    "moviechat",
    "perception_test",
    "hirest",
    "star",
    "nextqa",
    "finevideo",
    "cinepile",
]
"""Formats of data files; see docs/training.md."""
SHIPPED = "shipped:"
"""Prefix of the names of the shipped tiny models."""


def _name(shipped: str) -> AfterValidator:
    """Validate a name or folder; of the shipped models, only ``shipped`` is allowed."""

    def check(name: str) -> str:
        if name.startswith(SHIPPED) and name != SHIPPED + shipped:
            allowed = f"a name on the hub, a folder, or {SHIPPED + shipped!r}"
            raise ValueError(f"expected {allowed}, got {name!r}")
        return name

    return AfterValidator(check)


def _check_scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str | None):
        raise ValueError(f"expected true, false, a number, a string or null, got {value!r}")
    return value


class Model(Section):
    """The stock model.

    Attributes:
        name: A name on the hub, a folder (also one that vtc saved), ``shipped:vlm``, the tiny
            trained model that comes with vtc, or ``tiny:FAMILY``, a tiny model with random
            weights.
        dtype: The dtype of the weights in memory. Small updates are lost in bfloat16 weights, so
            components that train in full need float32, with ``precision: bfloat16``.
        attention: The attention implementation, by its name in transformers.
    """

    name: Annotated[str, _name("vlm")]
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


class Toolkit(Section):
    """The arguments of ``vtc.wrap``.

    Attributes:
        selector, merger: A name, or a mapping ``{name: dks, keyframes: 32}``.
        connector: ``separate`` projects merged frames with a copy of the stock projector (Eq. 11 of
            ViLAMP); ``encoder_patches`` merges the frame encoder's patches and projects them with a
            new connector (the fast path).
        encoder: The frame encoder, as for ``vtc.wrap``; ``shipped:dual_encoder``, which belongs to
            ``shipped:vlm``; or ``tiny``, a tiny encoder with random weights.
        adapter: Options of the model's family.
        chunk_slices: The number of slices that the vision tower encodes at once.
    """

    renamed: ClassVar = {"chunk_frames": "chunk_slices"}
    selector: Selector = "dks"
    merger: Merger = "dfm"
    connector: Connector = "stock"
    encoder: Annotated[str, _name("dual_encoder")] = "open_clip:ViT-B-32/openai"
    adapter: dict[str, Annotated[Any, AfterValidator(_check_scalar)]] = {}
    chunk_slices: PositiveInt = 16


class Source(Section):
    """One data set on disk.

    Attributes:
        name: The name used in messages.
        path: The file, or folder, of annotations; None until the user sets it.
        format: One of `Format`: ``llava_json``, ``messages``, or the format of a published data
            set.
        video_folder: Folder of relative video paths; None for the folder of ``path``.
        fps: Frames to sample per second.
        max_frames: The maximum number of frames per video; a longer video is sampled evenly.
        share: Fraction of the samples to use, drawn with the seed; 0 skips the source.
    """

    name: str
    path: str | None = None
    format: Format = "llava_json"
    video_folder: str | None = None
    fps: PositiveFloat = 1.0
    max_frames: PositiveInt | None = None
    share: Fraction = 1.0


class Data(Section):
    """The data sets; their samples are shuffled together."""

    sources: Items[Source]


class Part(Section):
    """How one part of the model trains."""

    how: Training = "frozen"
    learning_rate: PositiveFloat = 1e-5


class Lora(Section):
    """Options of LoRA, for all parts that train with it."""

    rank: PositiveInt = 64
    alpha: PositiveFloat = 16.0
    dropout: Fraction = 0.05


class Train(Section):
    """How each part trains; ``language_model`` is everything outside the other parts."""

    merger: Part = Part()
    connector: Part = Part()
    projector: Part = Part()
    vision_tower: Part = Part()
    language_model: Part = Part()
    lora: Lora = Lora()

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Yield the parts with their names."""
        for name, value in self:
            if name != "lora":
                yield name, value


class Optimisation(Section):
    """AdamW and its schedule.

    Attributes:
        epochs, steps: The length of the training; set exactly one of them.
        schedule: The schedule of the learning rates after the warm-up.
        warmup: Fraction of all steps during which the learning rates rise.
        batch_size: Samples per batch and process.
        accumulation: Batches per step.
        precision: The precision of the computation; the weights keep ``model.dtype``.
    """

    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: NonNegativeFloat = 0.0
    max_gradient_norm: PositiveFloat = 1.0
    batch_size: PositiveInt = 1
    accumulation: PositiveInt = 1
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    gradient_checkpointing: bool = True
    seed: NonNegativeInt = 0


class Output(Section):
    """The output folder.

    Attributes:
        folder: The folder for the trained model, and for checkpoints in ``checkpoint-STEP``.
        save_steps: Steps between checkpoints.
        keep: Number of checkpoints to keep; None keeps all.
        log_steps: Steps between log lines.
    """

    folder: str
    save_steps: PositiveInt = 500
    keep: PositiveInt | None = 2
    log_steps: PositiveInt = 10


class Recipe(Section):
    """A whole recipe; docs/training.md has an example."""

    model: Model
    vtc: Toolkit = Toolkit()
    data: Data
    train: Train
    optimisation: Optimisation
    output: Output

    def contradictions(self) -> Iterator[str]:
        if not self.data.sources:
            yield "data.sources is empty; name at least one"
        if (self.optimisation.epochs is None) == (self.optimisation.steps is None):
            yield "optimisation: set either epochs or steps, and the other one to null"
        ways = {name: part.how for name, part in self.train.parts()}
        if set(ways.values()) == {"frozen"}:
            yield "train: every part is frozen; set train.merger.how=full, or train another part"
        if ways["merger"] == "lora":
            yield "train.merger.how: expected 'full' or 'frozen', got 'lora'; a merger is small"
        if ways["connector"] != "frozen" and self.vtc.connector == "stock":
            yield (
                "train.connector.how: there is no connector to train; set vtc.connector=separate "
                "or vtc.connector=encoder_patches"
            )
        if "lora" in ways.values() and ways["language_model"] == "full":
            yield (
                "train.language_model.how: 'full' with LoRA elsewhere would keep two copies of the "
                "language model in memory; train it with lora, or the other parts in full"
            )


def load_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        settings: See `apply_settings`.

    Raises:
        ValueError: The file is not a YAML mapping.
        RecipeError: All errors in the recipe.
    """
    return parse_recipe(apply_settings(load_yaml(path), settings), str(path))


def apply_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a recipe's values with settings from the command line.

    Args:
        settings: ``"optimisation.steps=10"``; a number is an index of a list. Setting steps
            replaces the recipe's epochs, and the other way round.

    Raises:
        RecipeError: All settings that are malformed or name no existing entry.
    """
    names = [setting.partition("=")[0] for setting in settings]
    for name, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"optimisation.{name}" in names and f"optimisation.{other}" not in names:
            settings = [*settings, f"optimisation.{other}=null"]
    return apply_overrides(values, settings)


def parse_recipe(values: Mapping[str, Any], label: str = "the recipe") -> Recipe:
    """Build a recipe from plain values; see `load_recipe`."""
    return parse(Recipe, values, label)
