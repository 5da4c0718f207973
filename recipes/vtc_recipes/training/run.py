"""Train a recipe with the transformers Trainer."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import vtc
from vtc.interfaces.prompts import check_text
from vtc.plugins.sections import load_json
from vtc.wrapped.access import toolkit_of
from vtc.wrapped.saving import CONFIG_NAME, described, write_config
from vtc_recipes.training.batches import Collator
from vtc_recipes.training.checkpoints import has_checkpoint, last_checkpoint
from vtc_recipes.training.components import parameter_groups, set_training
from vtc_recipes.training.config import Recipe, load_recipe
from vtc_recipes.training.data import Sample, load_samples
from vtc_recipes.training.models import open_model


class VideoTrainer(Trainer):  # type: ignore[misc]
    """The stock Trainer with a learning rate per part and ``vtc.json`` in checkpoints."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, recipe: Recipe, **settings: Any) -> None:
        self.recipe = recipe
        super().__init__(**settings)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return AdamW with a parameter group per part."""
        if self.optimizer is None:
            groups = parameter_groups(
                self.model if model is None else model,
                self.recipe.train,
                self.recipe.optimisation.weight_decay,
            )
            self.optimizer = torch.optim.AdamW(groups)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model and ``vtc.json``, which peft does not write."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_config(toolkit_of(self.accelerator.unwrap_model(self.model)), folder)


def train(
    recipe: Recipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> Path:
    """Train a model and save it, wrapped, for ``vtc.from_pretrained``.

    The data and the output folder are checked before the model is opened.

    Args:
        resume: Resume from the last checkpoint in the output folder. Weights, optimiser, schedule,
            random state and data order are the same as in an uninterrupted run.
        callbacks: Passed to the Trainer.

    Returns:
        The output folder.

    Raises:
        ValueError: The data have errors, there is no checkpoint to resume from, or the folder holds
            checkpoints and ``resume`` is not set.
    """
    folder = Path(recipe.output.folder)
    checkpoint = _checkpoint(folder, resume)
    if checkpoint is not None:
        _refuse_other_recipe(recipe, folder)
    samples = load_samples(recipe.data.sources, recipe.optimisation.seed)
    arguments = training_arguments(recipe)
    _disable_zero3_init()
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
    _disable_zero3_init()
    if _is_switched_on("ACCELERATE_USE_FSDP") and not trainer.is_fsdp_enabled:
        raise ValueError(
            "accelerate uses FSDP on GPUs only, and would train without sharding here; "
            "launch with torchrun instead"
        )
    plugin = trainer.accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3 and trainer.is_world_process_zero():
        warnings.warn(
            "ZeRO-3 shards the vision tower and the merger too: if samples differ in the number of "
            "frames or keyframes, the run fails or hangs; shard only the language model with "
            "fsdp2.yaml",
            stacklevel=2,
        )
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_dump(recipe.plain(), sort_keys=False)
        (folder / "recipe.yaml").write_text(settings, encoding="utf-8")
    with _locked(folder):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        _save(trainer, processor, folder)
    return folder


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """Return the Trainer's arguments for a recipe."""
    settings, output = recipe.optimisation, recipe.output
    return TrainingArguments(
        output.folder,
        num_train_epochs=settings.epochs or 1,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,  # below 1 it is a fraction of all steps
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
        # Batches without merged frames, and a tower's last layers, leave parameters unused.
        ddp_find_unused_parameters=True,
        remove_unused_columns=False,
        report_to=[],
    )


def _disable_zero3_init() -> None:
    """Undo the global ZeRO-3 setting that TrainingArguments and the Trainer make.

    With it, transformers shards every model that it opens, even if ``zero3_init_flag`` is off, and
    the frame encoder would never be gathered again. The Trainer shards its own model.
    """
    unset_hf_deepspeed_config()


def _is_switched_on(variable: str) -> bool:
    """Return whether ``accelerate launch`` set a boolean variable."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


def _checkpointing(enabled: bool) -> dict[str, Any]:
    """Return the gradient checkpointing arguments under the names of the installed transformers."""
    names = {entry.name for entry in fields(TrainingArguments)}
    new = "activation_checkpointing"
    name = new if new in names else "gradient_checkpointing"
    return {name: enabled, f"{name}_kwargs": {"use_reentrant": False}}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other trainings.

    Raises:
        ValueError: Another process is training into it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"another process is training into {folder}; wait for it, or set another output.folder"
        ) from None
    with lock:
        yield


def _checkpoint(folder: Path, resume: bool) -> Path | None:
    """Return the checkpoint to resume from; None for a new run."""
    if not resume:
        if has_checkpoint(folder):
            raise ValueError(
                f"{folder} holds checkpoints of another run: resume from them with --resume, or "
                "set another output.folder"
            )
        return None
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise ValueError(f"{folder} holds no complete checkpoint; train without --resume")
    return checkpoint


def _refuse_other_recipe(recipe: Recipe, folder: Path) -> None:
    """Refuse to resume with a recipe that differs in more than its output."""
    file = folder / "recipe.yaml"
    if not file.is_file():  # killed before it was written
        return
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # an older version may have written the file
        before = load_recipe(file)
    different = [
        f"{name} is {new!r} and was {old!r}"
        for name, new, old in _differences(recipe.plain(), before.plain(), "")
        if not name.startswith("output.")
    ]
    if different:
        raise ValueError(
            f"{folder} was trained with another recipe: {'; '.join(different)} (see {file}). "
            "Resume with the same recipe, or set another output.folder"
        )


def _differences(now: Any, before: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name of each value that differs, with both values."""
    if isinstance(now, dict) and isinstance(before, dict):
        for key in dict.fromkeys([*now, *before]):
            yield from _differences(now.get(key), before.get(key), f"{where}.{key}".lstrip("."))
    elif now != before:
        yield where, now, before


def _refuse_other_toolkit(toolkit: Any, checkpoint: Path) -> None:
    saved = load_json(checkpoint / CONFIG_NAME)
    current = json.loads(json.dumps(described(toolkit, checkpoint)))
    if {**saved, "untrained": None} != {**current, "untrained": None}:
        raise ValueError(
            f"the recipe's vtc section differs from {checkpoint / CONFIG_NAME}; resume with the "
            "same recipe, or set another output.folder"
        )


def _check_texts(processor: Any, samples: Sequence[Sample]) -> None:
    for sample in samples:
        for turn in sample.turns:
            check_text(processor, turn.text, f"{sample.source.name}: a text about {sample.video}")


def _save(trainer: VideoTrainer, processor: Any, folder: Path) -> None:
    """Save the trained model; LoRA is merged unless the weights are sharded."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded or not hasattr(model, "merge_and_unload"):
        trainer.save_model(os.fspath(folder))
    elif trainer.is_world_process_zero():
        vtc.save_pretrained(model.merge_and_unload(), folder)
    if trainer.is_world_process_zero():
        processor.save_pretrained(folder)
    # The launcher kills every process as soon as one of them fails.
    trainer.accelerator.wait_for_everyone()
