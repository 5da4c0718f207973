"""Score the options of a multiple-choice question: the probability of each name as the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vtc
from vtc.pipeline.report import Report
from vtc_recipes.evaluation.bootstrap import interval


def name_tokens(processor: Any, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the tokens of option names such as ``A`` or ``007``.

    Raises:
        ValueError: The tokens of one name equal or start with those of another.
    """
    tokens = [tuple(processor.tokenizer(n, add_special_tokens=False)["input_ids"]) for n in names]
    for number, name in enumerate(tokens):
        for other in range(len(tokens)):
            if other != number and tokens[other][: len(name)] == name:
                raise ValueError(
                    f"the model's tokenizer cannot distinguish the options {names[number]!r} and "
                    f"{names[other]!r}; choose a model whose tokenizer has letters and digits"
                )
    return tokens


@torch.no_grad()
def option_scores(
    model: Any,
    processor: Any,
    source: vtc.VideoSource,
    question: str,
    names: Sequence[str],
    together: int = 4,
    query: str | None = None,
) -> tuple[list[float], Report]:
    """Return the probability of each option's name as the answer, normalised over all options.

    Names of several tokens need one pass of the language model per distinct prefix.

    Args:
        model, processor: The results of ``vtc.open_model``.
        names: The answers that the model may give.
        together: Number of rows in a batch.
        query: The query for selecting keyframes; None for the question.

    Returns:
        ``[n]`` numbers that sum to 1, and the report of the first pass.
    """
    tokens = name_tokens(processor, names)
    sums = torch.zeros(len(tokens), dtype=torch.float64)
    first: Report | None = None
    for depth in range(max(map(len, tokens))):
        prefixes = list(dict.fromkeys(name[:depth] for name in tokens if len(name) > depth))
        for start in range(0, len(prefixes), together):
            batch = prefixes[start : start + together]
            scores = _next_token_scores(model, processor, source, question, batch, query)
            first = first or vtc.last_report(model)
            for number, name in enumerate(tokens):
                if len(name) > depth and name[:depth] in batch:
                    sums[number] += scores[batch.index(name[:depth]), name[depth]]
    assert first is not None, "names are not empty"
    return sums.softmax(0).tolist(), first


def _next_token_scores(
    model: Any,
    processor: Any,
    source: vtc.VideoSource,
    question: str,
    prefixes: Sequence[tuple[int, ...]],
    query: str | None,
) -> Tensor:
    """Return log-probabilities ``[n, V]`` float64 of the next token after each answer prefix."""
    count = len(prefixes)
    inputs = vtc.prepare_inputs(model, processor, [source] * count, [question] * count)
    inputs["vtc_query"] = [query or question] * count
    ids = inputs["input_ids"]
    starts = torch.tensor(prefixes, dtype=ids.dtype, device=ids.device).reshape(count, -1)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape[:2] == ids.shape:
            columns = {"input_ids": starts, "attention_mask": torch.ones_like(starts)}
            column = columns.get(name, torch.zeros_like(starts)).to(value.dtype)
            inputs[name] = torch.cat([value, column], dim=1)
    result = model.generate(
        **inputs,
        max_new_tokens=1,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits: Tensor = result.logits[0]
    return logits.double().log_softmax(-1).cpu()


def average_precision(scores: Sequence[float], positives: Sequence[bool]) -> float:
    """Return the average precision of a ranking: the mean of the precision at each positive.

    Items with equal scores are ranked together: each counts with all of them.

    >>> average_precision([0.9, 0.8, 0.7, 0.6], [True, False, True, False])
    0.8333333333333333

    Raises:
        ValueError: There is no positive.
    """
    if not any(positives):
        raise ValueError("expected at least one positive, got none")
    values = np.asarray(scores, dtype=np.float64)
    right = np.asarray(positives, dtype=bool)
    order = np.argsort(-values, kind="stable")
    values, right = values[order], right[order]
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    hits = np.cumsum(right)[ends]
    precision = hits / (ends + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / right.sum())


def mean_average_precision(
    scores: NDArray[np.float64], answers: Sequence[int]
) -> tuple[float, tuple[float, float]]:
    """Return the mean over classes of the average precision, and its 95 % interval.

    Args:
        scores: ``[clips, classes]``; 0 for classes that were no option of a clip.
        answers: The class of each clip. Classes without a clip do not count.

    Returns:
        The mean, and the interval of a bootstrap over classes.
    """
    right = np.asarray(answers)
    present = sorted({*answers})
    precisions = [
        average_precision(scores[:, name].tolist(), (right == name).tolist()) for name in present
    ]
    return float(np.mean(precisions)), interval([precisions])
