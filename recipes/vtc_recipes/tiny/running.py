"""What all stages share: the schedule of the learning rate, gates, and what is written down."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed


class Run:
    """One stage's optimizers, schedule and clock.

    A linear warm-up, then a cosine to a tenth of the learning rate; gradients are clipped at norm
    1. Matrices may be trained with Muon (their update is orthogonalised), which finds how to look
    things up in a video in a fraction of AdamW's steps; all else is AdamW's.

    Args:
        parameters: What is trained, by AdamW; weights that need no gradient are left out.
        steps: In all.
        rate: The highest learning rate.
        minutes: Stop early when so much time is up; the schedule then runs by the clock.
        matrices: What Muon trains.

    Raises:
        RuntimeError: Muon is asked for and this torch has none.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        steps: int,
        rate: float,
        minutes: float = math.inf,
        matrices: Iterable[Tensor] = (),
    ) -> None:
        kept, square = _trainable(parameters), _trainable(matrices)
        self.optimizers: list[torch.optim.Optimizer] = [_adamw(kept, rate)]
        if square:
            self.optimizers.append(_muon(square, rate))
        self._weights, self._rate, self._steps = [*kept, *square], rate, steps
        self._seconds, self._began = 60 * minutes, time.perf_counter()
        self._cpu = time.process_time()
        self.step = 0

    @property
    def done(self) -> float:
        """The share of the run that is over, 0 to 1."""
        return min(1.0, max(self.step / self._steps, self.seconds / self._seconds))

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu

    def update(self, loss: Tensor) -> None:
        """One step down the gradient of a loss.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}")
        cosine = 0.55 + 0.45 * math.cos(math.pi * self.done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate * cosine * min(1.0, (self.step + 1) / 100)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if distributed.is_initialized():
            self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1

    def over(self) -> bool:
        """Whether to stop: when any rank is done, since none can go on without the others."""
        over = torch.tensor(float(self.done >= 1))
        if distributed.is_initialized():
            distributed.all_reduce(over, distributed.ReduceOp.MAX)
        return bool(over)

    def _share_gradients(self) -> None:
        """Replace the gradients by their mean over the ranks."""
        kept = [weight.grad for weight in self._weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in kept])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for gradient, part in zip(
            kept, torch.split(flat, [one.numel() for one in kept]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))


def _trainable(weights: Iterable[Tensor]) -> list[Tensor]:
    return [weight for weight in weights if weight.requires_grad]


def _adamw(weights: list[Tensor], rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices and no vectors."""
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": 0.01},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def _muon(matrices: list[Tensor], rate: float) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(f"torch {torch.__version__} has no Muon: this stage needs 2.9 or newer")
    # Updates as large as AdamW's, so that both take one learning rate.
    return torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")


def mean_over_ranks(value: Tensor) -> float:
    """A number's mean over the ranks; the number itself where there is but one process."""
    if distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return value.item()


def write_metrics(folder: Path, stage: str, metrics: dict[str, Any]) -> None:
    """Write ``<stage>.json`` beside the stage's weights."""
    text = json.dumps(metrics, indent=2) + "\n"
    (folder / f"{stage}.json").write_text(text, encoding="utf-8")


def require_gate(folder: Path, stage: str) -> None:
    """Go on only from a stage that was reached.

    Raises:
        ValueError: The stage before was not run, or failed its gate.
    """
    file = folder / f"{stage}.json"
    if not file.is_file():
        raise ValueError(f"{file} is missing: run the stage {stage!r} first, with the same --out")
    metrics = json.loads(file.read_text(encoding="utf-8"))
    if not metrics["passed"]:
        raise ValueError(
            f"the stage {stage!r} failed its gate ({metrics['gate']}): train it longer before "
            "going on"
        )
