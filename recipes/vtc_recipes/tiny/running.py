"""What all stages share: the schedule of the learning rate, gates, and what is written down."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed


class Run:
    """One stage's optimizer, schedule and clock.

    AdamW with a linear warm-up and a cosine to a tenth of the learning rate, gradients clipped at
    norm 1; matrices are decayed, vectors are not.

    Args:
        parameters: What is trained.
        steps: In all.
        rate: The highest learning rate.
        minutes: Stop early when so much time is up; the schedule then runs by the clock.
    """

    def __init__(self, parameters: Any, steps: int, rate: float, minutes: float = math.inf) -> None:
        kept = [weight for weight in parameters if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [weight for weight in kept if weight.ndim > 1], "weight_decay": 0.01},
                {"params": [weight for weight in kept if weight.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=rate,
            betas=(0.9, 0.98),
        )
        self._weights, self._rate, self._steps = kept, rate, steps
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

    def update(self, loss: torch.Tensor) -> None:
        """One step down the gradient of a loss.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}")
        cosine = 0.55 + 0.45 * math.cos(math.pi * self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * cosine * min(1.0, (self.step + 1) / 100)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if distributed.is_initialized():
            self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self.optimizer.step()
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
        for gradient, part in zip(kept, flat.split([g.numel() for g in kept]), strict=True):
            gradient.copy_(part.view_as(gradient))


def mean_over_ranks(value: torch.Tensor) -> float:
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
