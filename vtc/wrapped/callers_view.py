"""Show callbacks of ``generate`` the caller's prompt in place of the shortened one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from vtc.wrapped.running import outside_generation


class CallersView:
    """Replaces the shortened prompt in sequences of ``generate`` by the caller's prompt.

    Args:
        prompt: ``[B, L]`` int64, the caller's prompt.
        shortened: L', the length of the prompt that the stock ``generate`` gets.
    """

    def __init__(self, prompt: Tensor, shortened: int) -> None:
        self.prompt, self.shortened = prompt, shortened

    def __call__(self, sequences: Tensor) -> Tensor:
        """Return ``[n, L + new]`` for sequences ``[n, L' + new]``, n being a multiple of B."""
        copies = len(sequences) // len(self.prompt)
        prompt = self.prompt.to(sequences.device).repeat_interleave(copies, dim=0)
        return torch.cat([prompt, sequences[:, self.shortened :]], dim=1)

    def of_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return arguments of ``generate`` whose callbacks get the caller's sequences."""
        arguments = dict(arguments)
        processors = arguments.get("logits_processor")
        if processors is not None:
            processors = [_Processor(self, processor) for processor in processors]
            arguments["logits_processor"] = LogitsProcessorList(processors)
        criteria = arguments.get("stopping_criteria")
        if criteria is not None:
            criteria = [_Criterion(self, criterion) for criterion in criteria]
            arguments["stopping_criteria"] = StoppingCriteriaList(criteria)
        if arguments.get("prefix_allowed_tokens_fn") is not None:
            arguments["prefix_allowed_tokens_fn"] = self._allowed_tokens(
                arguments["prefix_allowed_tokens_fn"]
            )
        if arguments.get("streamer") is not None:
            arguments["streamer"] = _Streamer(self, arguments["streamer"])
        return arguments

    def _allowed_tokens(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def of_callers_sequence(row: int, sequence: Tensor) -> Any:
            prompt = self.prompt[row].to(sequence.device)
            with outside_generation():
                return function(row, torch.cat([prompt, sequence[self.shortened :]]))

        return of_callers_sequence


class _Processor(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, view: CallersView, inner: Any) -> None:
        self.view, self.inner = view, inner

    # The stock code passes only arguments that the signature names.
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        with outside_generation():
            return self.inner(self.view(input_ids), scores)


class _Criterion(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, view: CallersView, inner: Any) -> None:
        self.view, self.inner = view, inner

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        with outside_generation():
            return self.inner(self.view(input_ids), scores, **kwargs)


class _Streamer:
    """Passes the caller's prompt to a streamer first, then the new tokens."""

    def __init__(self, view: CallersView, inner: Any) -> None:
        self.view, self.inner = view, inner
        self.begun = False

    def put(self, value: Tensor) -> None:
        with outside_generation():
            self.inner.put(value if self.begun else self.view(value))
        self.begun = True

    def end(self) -> None:
        with outside_generation():
            self.inner.end()
