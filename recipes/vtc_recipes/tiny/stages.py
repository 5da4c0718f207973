"""Train the stages of a recipe in order, each with the Trainer of transformers."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from vtc_recipes.evaluation.resuming import write_json
from vtc_recipes.tiny.config import StageSettings, TinyRecipe
from vtc_recipes.tiny.dual_encoder import DualEncoder
from vtc_recipes.tiny.evidence import Evidence, FinalStories, LongStories, Review, Stories
from vtc_recipes.tiny.hours import Hours
from vtc_recipes.tiny.optimiser import AdamWAndMuon
from vtc_recipes.tiny.pretext import Pretext
from vtc_recipes.tiny.queries import Queries
from vtc_recipes.tiny.stage import Stage, read_metrics, read_start, require_gates
from vtc_recipes.tiny.vlm import Answers, Captions, HourAnswers, LanguageStage, LongAnswers
from vtc_recipes.training.checkpoints import last_checkpoint

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        Pretext,
        DualEncoder,
        Captions,
        Answers,
        LongAnswers,
        HourAnswers,
        Queries,
        Stories,
        LongStories,
        FinalStories,
        Evidence,
        Review,
        Hours,
    )
}


def takes_parts(stage: Mapping[str, Any]) -> bool:
    """Return whether the parts of ``vtc.wrap`` change the result of a stage of a recipe.

    True for unknown stages, which `reading.parse_tiny` refuses.
    """
    kind = STAGES.get(stage.get("name", ""))
    return kind is None or kind.takes_parts


def require_language_model(stage: str, label: str) -> None:
    """Check that a stage, the last of a recipe, trains a model that can be asked.

    Raises:
        ValueError: It trains a vision tower or a dual encoder.
    """
    if not issubclass(STAGES[stage], LanguageStage):
        names = ", ".join(name for name, kind in STAGES.items() if issubclass(kind, LanguageStage))
        raise ValueError(
            f"{label} ends with the stage {stage!r}, which trains no language model; end with one "
            f"of {names}"
        )


class Batches(Dataset[Mapping[str, Any]]):
    """All batches of a stage by number, drawn lazily."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __len__(self) -> int:
        return self.stage.settings.steps

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return self.stage.batch(number)


class StageTrainer(Trainer):  # type: ignore[misc]
    """The stock Trainer with batches in order and `AdamWAndMuon`."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, stage: Stage, **settings: Any) -> None:
        self.stage = stage
        super().__init__(
            model=stage.model,
            train_dataset=Batches(stage),
            data_collator=lambda batches: batches[0],
            **settings,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return Muon for the stage's ``matrices()`` and AdamW for the rest."""
        if self.optimizer is None:
            self.optimizer = AdamWAndMuon(
                self.stage.model.parameters(),
                self.stage.matrices(),
                self.stage.settings.learning_rate,
            )
        return self.optimizer

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *_: Any, **__: Any) -> Tensor:
        """Return the stage's loss.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        loss = self.stage.loss(inputs)
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"the loss of the stage {self.stage.name!r} is {loss.item()} at step "
                f"{self.state.global_step}; lower its learning_rate"
            )
        return loss

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def train(
    recipe: TinyRecipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> Path:
    """Train all stages of a recipe.

    Each writes a folder of its name and ``<name>.json``: settings, metrics, seconds and its log.

    Args:
        recipe: The recipe.
        resume: Keep finished stages and resume from the last checkpoint of the unfinished one;
            the result is bit-equal to an unbroken run.
        callbacks: Callbacks for the Trainer of each stage.

    Returns:
        The folder of the last stage.

    Raises:
        ValueError: The folder holds results and ``resume`` is False, it holds results of other
            settings, or a stage failed its gates.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("the tiny models train in one process; start it without torchrun")
    folder = Path(recipe.output.folder)
    done = {name: metrics for name in STAGES if (metrics := read_metrics(folder, name))}
    if not resume and (done or any(folder.glob("*/checkpoint-*"))):
        raise ValueError(
            f"{folder} holds results already; continue with --resume, or set another output.folder"
        )
    for settings in recipe.stages:
        if settings.name in done:
            metrics = done[settings.name]
            _require_same(folder, recipe, settings, metrics)
        else:
            metrics = _train_stage(recipe, settings, folder, resume, callbacks)
        require_gates(settings, metrics["measured"])
    return folder / recipe.stages[-1].name


def _train_stage(
    recipe: TinyRecipe,
    settings: StageSettings,
    folder: Path,
    resume: bool,
    callbacks: Sequence[TrainerCallback],
) -> dict[str, Any]:
    target = folder / settings.name
    checkpoint = last_checkpoint(target) if resume else None
    seed, started = recipe.seed_of(settings), target / "started.json"
    start = {"seed": seed, "settings": settings.plain(), "vtc": _parts_for(recipe, settings)}
    if checkpoint is not None:
        _require_same(folder, recipe, settings, read_start(started))
    target.mkdir(parents=True, exist_ok=True)
    write_json(started, start)
    print(f"stage {settings.name}: {settings.steps} steps", flush=True)
    began, cpu_began = time.perf_counter(), time.process_time()
    set_seed(seed)
    stage = STAGES[settings.name](settings, recipe, folder)
    arguments = _arguments(recipe, settings, target)
    trainer = StageTrainer(stage, args=arguments, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    stage.model.eval()
    measured = stage.measure()
    stage.save(target)
    metrics = {
        "stage": settings.name,
        **start,
        "measured": {name: round(value, 4) for name, value in measured.items()},
        "seconds": round(time.perf_counter() - began),
        "cpu_seconds": round(time.process_time() - cpu_began),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "torch": torch.__version__,
        "device": str(stage.device),
        "log": [entry for entry in trainer.state.log_history if "loss" in entry],
    }
    (folder / f"{settings.name}.json").write_text(json.dumps(metrics, indent=1) + "\n")
    for finished in target.glob("checkpoint-*"):
        shutil.rmtree(finished)
    started.unlink()
    print(f"stage {settings.name}: {metrics['measured']}, {metrics['cpu_seconds']} CPU seconds")
    return metrics


def _arguments(recipe: TinyRecipe, settings: StageSettings, target: Path) -> TrainingArguments:
    return TrainingArguments(
        os.fspath(target),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # of batches
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=settings.warmup,  # below one it is a share of all steps
        max_grad_norm=1.0,
        seed=recipe.seed_of(settings),
        save_strategy="steps",
        save_steps=recipe.output.save_steps,
        save_total_limit=recipe.output.keep,
        logging_steps=recipe.output.log_steps,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to=[],
    )


def _parts_for(recipe: TinyRecipe, settings: StageSettings) -> dict[str, Any]:
    """Return the parts that a stage is trained with."""
    parts: dict[str, Any] = recipe.vtc.plain()
    if not STAGES[settings.name].needs_budget:
        del parts["budget"]
    return parts


def _require_same(
    folder: Path, recipe: TinyRecipe, settings: StageSettings, metrics: Mapping[str, Any]
) -> None:
    """Check that a stage was trained with the recipe's settings; gates may differ.

    Raises:
        ValueError: The seed, the parts or a setting differ.
    """
    seed = recipe.seed_of(settings)
    new = {"vtc": _parts_for(recipe, settings), **settings.plain(), "seed": seed}
    old = {"vtc": metrics["vtc"], **metrics["settings"], "seed": metrics["seed"]}
    free = {"gates"} if STAGES[settings.name].takes_parts else {"gates", "vtc"}
    for name in new.keys() - free:
        if old.get(name) != new[name]:
            raise ValueError(
                f"{folder} holds the stage {settings.name!r} trained with {name}="
                f"{old.get(name)!r}, the recipe has {new[name]!r}; set another output.folder, or "
                "the same value"
            )
