"""The model ``vtc`` for lmms-eval: a wrapped model that answers chat messages.

``lmms-eval --model vtc --model_args pretrained=M,selector=dks,merger=dfm,keyframes=32,fps=1``
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms

from vtc.cli.models import ModelOptions
from vtc.interfaces.part import require
from vtc.plugins.discovery import suggestion
from vtc.plugins.sections import load_json
from vtc_recipes.evaluation.harness.answering import Answerer, ReadingOptions
from vtc_recipes.evaluation.harness.layout import ROW
from vtc_recipes.evaluation.harness.requests import (
    PredictionFile,
    Request,
    check_together,
    question_of,
    read_generation,
    read_predictions,
)
from vtc_recipes.evaluation.harness.tasks import CONTROLS

QUERIES = ("question", "prompt")
_QUESTION, _ = QUERIES
_LISTS = ("selector_option", "merger_option", "budget_option", "adapter_option")
_READING = ("fps", "max_frames", "reader", "cache", "system")


class Vtc(lmms):  # type: ignore[misc]
    """A wrapped model for lmms-eval.

    With torchrun or accelerate, each process has its own model on its own GPU.

    Args:
        pretrained: The model, as for ``vtc ask --model``.
        batch_size: Number of questions about one video that share a pass; each needs memory.
        device: As for ``vtc ask --device``; by default the GPU of this process, if there is one.
        predictions: Folder for one line per question: answer, tokens, keyframes, seconds. Questions
            with a line are not asked again.
        control: One of ``uniform``, ``downsample``, ``random``, ``no_video``.
        method: For a control, the folder of the method's predictions.
        query: The query for selecting keyframes: ``question``, the benchmark's question without its
            options and instructions, as in ViLAMP's released code; or the whole ``prompt``.
        settings: A JSON file with arguments, for values with commas; the other arguments override
            it.
        **options: The options of ``vtc ask`` for the model, its parts and the frames, with ``_``
            for ``-``: ``selector``, ``keyframes``, ``max_tokens``, ``fps`` ... Multiple values of
                ``selector_option`` and similar options are separated by ``;``.

    Raises:
        ValueError: An option is unknown or invalid, or processes do not know of each other.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 4,
        device: str | None = None,
        predictions: str | None = None,
        control: str | None = None,
        method: str | None = None,
        query: str | None = None,
        settings: str | None = None,
        **options: Any,
    ) -> None:
        from accelerate import Accelerator

        super().__init__()
        saved = load_json(Path(settings)) if settings else {}
        pretrained = pretrained or saved.pop("pretrained", None)
        predictions = predictions or saved.pop("predictions", None)
        control = control or saved.pop("control", None)
        method = method or saved.pop("method", None)
        query = query or saved.pop("query", _QUESTION)
        require(query in QUERIES, "query", query, " or ".join(QUERIES))
        self.query = query
        options = {**saved, **options}
        options.pop("max_batch_size", None)
        if pretrained is None:
            raise ValueError("expected pretrained=MODEL in --model_args, got none")
        if control not in (None, *CONTROLS):
            raise ValueError(
                f"expected control to be one of {', '.join(CONTROLS)}, got {control!r}"
            )
        if control not in (None, "no_video") and method is None:
            raise ValueError(f"control={control} needs method=FOLDER, the method's predictions")
        self.batch_size = int(batch_size)
        check_together(self.batch_size)
        self.accelerator = Accelerator()
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes != self.accelerator.num_processes:
            raise ValueError(
                f"expected {processes} processes, as torchrun started, but accelerate sees "
                f"{self.accelerator.num_processes}; without a GPU, set ACCELERATE_USE_CPU=true"
            )
        self._rank, self._world_size = (
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        reading = {name: options.pop(name) for name in _READING if name in options}
        self.options = _model_options(pretrained, options)
        target = device or self.options.device
        if target == "auto" and self.accelerator.device.type == "cuda":
            target = str(self.accelerator.device)
        self.options = replace(self.options, device=target)
        if control is not None:
            self.options = control_options(self.options, control)
        model, processor = self.options.open(quiet=True)
        self.device = model.device
        self.model_size = sum(weight.numel() for weight in model.parameters())
        folder = None if predictions is None else Path(predictions)
        self._answerer = Answerer(
            model,
            processor,
            ReadingOptions(together=self.batch_size, **reading),
            PredictionFile(folder, self._rank),
            control,
            {} if method is None else read_predictions(Path(method)),
        )
        if folder is not None and self._rank == 0:
            (folder / "parameters.txt").write_text(f"{self.model_size}\n", encoding="utf-8")

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer all requests of this process."""
        from tqdm import tqdm  # type: ignore[import-untyped]

        with tqdm(total=len(requests), disable=self._rank != 0, desc="vtc") as bar:

            def progress(done: int, total: int) -> None:
                bar.update(done - bar.n)

            predictions = self._answerer.answer(
                [self._read(request) for request in requests], progress
            )
        return [
            GenerationResult(
                text=prediction.text,
                token_counts=TokenCounts(input_tokens=prediction.tokens_after),
            )
            for prediction in predictions
        ]

    def _read(self, request: Any) -> Request:
        _, to_messages, generation, doc, task, split = request.args
        row = self.task_dict[task][split][doc]
        settings, until = read_generation(generation)
        query = question_of(row) if self.query == _QUESTION else None
        return Request(task, int(row.get(ROW, doc)), to_messages(row), settings, until, query)

    def loglikelihood(self, requests: Any) -> Any:
        """Raise, because tasks that score given texts are not supported."""
        raise NotImplementedError("vtc supports only tasks of the kind generate_until")

    def generate_until_multi_round(self, requests: Any) -> Any:
        """Raise, because tasks of several rounds are not supported."""
        raise NotImplementedError("vtc supports only tasks of the kind generate_until")


def _model_options(pretrained: str, options: dict[str, Any]) -> ModelOptions:
    """Parse a model's options from lmms-eval, which converts number-like values to numbers."""
    names = {field.name for field in fields(ModelOptions)} - {"model"}
    for name in options:
        if name not in names:
            close = suggestion(name, sorted(names | {*_READING}))
            raise ValueError(f"--model_args has an unknown option {name!r}{close}")
    for name in _LISTS:
        if isinstance(options.get(name), str):
            options[name] = options[name].split(";")
    if isinstance(options.get("max_tokens"), int):
        options["max_tokens"] = str(options["max_tokens"])
    return ModelOptions(model=str(pretrained), **options)


def control_options(options: ModelOptions, control: str) -> ModelOptions:
    """Return the options of a control, with its parts in place of the method's."""
    if control == "no_video":
        return options
    selection: dict[str, Any] = {"selector_option": [], "keyframes": None}
    if control == "random":
        return replace(options, selector="random", **selection)
    unlimited: dict[str, Any] = {"max_tokens": None, "budget": None, "budget_option": []}
    if control == "uniform":
        parts: dict[str, Any] = {"selector": "uniform", "merger": "drop"}
    else:
        parts = {"selector": "none", "merger": "mean_pool"}
    return replace(options, **parts, merger_option=[], **selection, **unlimited)
