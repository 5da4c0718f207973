"""Trains what a recipe says with the Trainer of transformers: one path for every way to train."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import vtc
from vtc.interfaces.prompts import check_text
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.saving import CONFIG_NAME, described, write_config
from vtc_recipes.training.batches import Collator
from vtc_recipes.training.components import parameter_groups, set_training
from vtc_recipes.training.config import Recipe
from vtc_recipes.training.data import Sample, load_samples
from vtc_recipes.training.models import open_model


class VideoTrainer(Trainer):  # type: ignore[misc]
    """The stock Trainer; parts have learning rates of their own, checkpoints hold ``vtc.json``."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, recipe: Recipe, **settings: Any) -> None:
        self.recipe = recipe
        super().__init__(**settings)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a group of parameters for each part."""
        if self.optimizer is None:
            groups = parameter_groups(
                self.model if model is None else model,
                self.recipe.train,
                self.recipe.optimisation.weight_decay,
            )
            self.optimizer = torch.optim.AdamW(groups)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The stock one, and ``vtc.json``, which peft's own saving does not write."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_config(toolkit_of(self.accelerator.unwrap_model(self.model)), folder)


def train(
    recipe: Recipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> Path:
    """Train a model and save it, wrapped, for ``vtc.from_pretrained``.

    Everything about the data and the output that can be checked without the model comes first.

    Args:
        resume: Go on from the last checkpoint in the output folder. Weights, optimiser, schedule,
            random numbers and the order of the data are those of an unbroken run.
        callbacks: Of the Trainer.

    Returns:
        The output folder.

    Raises:
        ValueError: The data are unusable, there is nothing to resume from, or a folder with
            checkpoints would be trained into anew.
    """
    folder = Path(recipe.output.folder)
    checkpoint = _checkpoint(folder, resume)
    if checkpoint is not None:
        _refuse_other_recipe(recipe, folder)
    samples = load_samples(recipe.data.sources, recipe.optimisation.seed)
    arguments = training_arguments(recipe)
    _open_models_whole()
    set_seed(recipe.optimisation.seed)
    model, processor = open_model(recipe)
    _check_texts(processor, samples)
    model = set_training(model, recipe.train)
    toolkit = toolkit_of(model)
    if checkpoint is not None:
        _refuse_other_toolkit(toolkit, checkpoint)
    model.config.use_cache = False
    trainer = VideoTrainer(
        recipe,
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=Collator(model, toolkit, processor),
        processing_class=processor,
        callbacks=list(callbacks),
    )
    _open_models_whole()
    if _asked_for("ACCELERATE_USE_FSDP") and not trainer.is_fsdp_enabled:
        raise ValueError(
            "FSDP was asked for, but accelerate divides weights on GPUs only and would train "
            "without it here; launch with torchrun instead"
        )
    plugin = trainer.accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3 and trainer.is_world_process_zero():
        warnings.warn(
            "ZeRO-3 divides the vision tower and the merger as well: if a sample has more frames "
            "than another, or the selector finds fewer keyframes in it, the run fails or hangs; "
            "divide the language model alone with fsdp2.yaml",
            stacklevel=2,
        )
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_dump(asdict(recipe), sort_keys=False)
        (folder / "recipe.yaml").write_text(settings, encoding="utf-8")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    _save(trainer, processor, folder)
    return folder


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """What the Trainer takes of a recipe."""
    settings, output = recipe.optimisation, recipe.output
    return TrainingArguments(
        output.folder,
        num_train_epochs=settings.epochs or 1,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,  # below one it is the part of all steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        bf16=settings.precision == "bfloat16",
        fp16=settings.precision == "float16",
        **_checkpointing(settings.gradient_checkpointing),
        seed=settings.seed,
        save_strategy="steps",
        save_steps=output.save_steps,
        save_total_limit=output.keep,
        logging_steps=output.log_steps,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        # A batch without merged frames, or a tower's last layers, leave parameters without use.
        ddp_find_unused_parameters=True,
        remove_unused_columns=False,
        report_to=[],
    )


def _open_models_whole() -> None:
    """Undo what TrainingArguments and the Trainer each set when ZeRO-3 is asked for.

    With it, transformers divides whatever it opens, whatever ``zero3_init_flag`` says: the frame
    encoder too, which nothing would gather again. The Trainer divides its own model.
    """
    unset_hf_deepspeed_config()


def _asked_for(variable: str) -> bool:
    """Whether ``accelerate launch`` set a switch."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """Gradient checkpointing by its new name, where transformers has it."""
    names = {entry.name for entry in fields(TrainingArguments)}
    new = "activation_checkpointing"
    name = new if new in names else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False}}


def _checkpoint(folder: Path, resume: bool) -> Path | None:
    """The checkpoint to resume from, which there must be; None for a run from the start."""
    checkpoint = last_checkpoint(folder)
    if not resume and checkpoint is not None:
        raise ValueError(
            f"{folder} holds checkpoints of another run: go on from them with --resume, or "
            "set another output.folder"
        )
    if resume and checkpoint is None:
        raise ValueError(f"{folder} holds no complete checkpoint; train without --resume")
    return checkpoint


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; None where there is none."""
    # The Trainer writes its state last: a run that was killed before left half a checkpoint.
    complete = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _refuse_other_recipe(recipe: Recipe, folder: Path) -> None:
    """What was trained so far must have been trained so; how often it is saved may differ."""
    file = folder / "recipe.yaml"
    if not file.is_file():  # killed before it was written, so by this recipe as well as by any
        return
    before = yaml.safe_load(file.read_text(encoding="utf-8"))
    now = yaml.safe_load(yaml.safe_dump(asdict(recipe)))
    different = [
        f"{name} is {new!r} and was {old!r}"
        for name, new, old in _differences(now, before, "")
        if not name.startswith("output.")
    ]
    if different:
        raise ValueError(
            f"{file} says that {folder} was trained otherwise: {'; '.join(different)}. Resume with "
            "the same recipe, or train anew elsewhere"
        )


def _differences(now: Any, before: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """The dotted names of what differs, with both values."""
    if isinstance(now, dict) and isinstance(before, dict):
        for key in dict.fromkeys([*now, *before]):
            yield from _differences(now.get(key), before.get(key), f"{where}.{key}".lstrip("."))
    elif now != before:
        yield where, now, before


def _refuse_other_toolkit(toolkit: Any, checkpoint: Path) -> None:
    saved = json.loads((checkpoint / CONFIG_NAME).read_text(encoding="utf-8"))
    ours = json.loads(json.dumps(described(toolkit, checkpoint)))
    if {**saved, "untrained": None} != {**ours, "untrained": None}:
        raise ValueError(
            f"the recipe's vtc section is not the one that {checkpoint} was trained with, which "
            f"its {CONFIG_NAME} says; resume with the same recipe, or train anew elsewhere"
        )


def _check_texts(processor: Any, samples: Sequence[Sample]) -> None:
    for sample in samples:
        for turn in sample.turns:
            check_text(processor, turn.text, f"{sample.source.name}: a text about {sample.video}")


def _save(trainer: VideoTrainer, processor: Any, folder: Path) -> None:
    """The trained model, LoRA merged into the weights where they are whole on this process."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded or not hasattr(model, "merge_and_unload"):
        trainer.save_model(os.fspath(folder))
    elif trainer.is_world_process_zero():
        vtc.save_pretrained(model.merge_and_unload(), folder)
    if trainer.is_world_process_zero():
        processor.save_pretrained(folder)
    # Until all is saved: the launcher ends every process as soon as one of them fails.
    trainer.accelerator.wait_for_everyone()
