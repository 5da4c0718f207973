"""Scores of the options of a multiple-choice question: probabilities of their names as answers."""

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
    """Return the tokens of the names of options, such as ``A`` or ``007``.

    Raises:
        ValueError: Two names have the same tokens, or those of one start with those of another.
    """
    tokens = [tuple(processor.tokenizer(n, add_special_tokens=False)["input_ids"]) for n in names]
    for number, one in enumerate(tokens):
        for other in range(len(tokens)):
            if other != number and tokens[other][: len(one)] == one:
                raise ValueError(
                    f"the model's tokenizer writes the options {names[number]!r} and "
                    f"{names[other]!r} alike; choose a model that knows letters and digits"
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
) -> tuple[list[float], Report]:
    """Return the probability of each option's name as the answer, among those of all options.

    Names of several tokens take a pass of the language model for each of their first parts.

    Args:
        model, processor: As ``vtc.open_model`` returns them.
        names: What the model is asked to answer with.
        together: Rows of a batch.

    Returns:
        ``[n]`` numbers that sum to 1, and the report of the first pass.
    """
    tokens = name_tokens(processor, names)
    sums = torch.zeros(len(tokens), dtype=torch.float64)
    first: Report | None = None
    for depth in range(max(map(len, tokens))):
        prefixes = list(dict.fromkeys(one[:depth] for one in tokens if len(one) > depth))
        for start in range(0, len(prefixes), together):
            batch = prefixes[start : start + together]
            scores = _next_token_scores(model, processor, source, question, batch)
            first = first or vtc.last_report(model)
            for number, one in enumerate(tokens):
                if len(one) > depth and one[:depth] in batch:
                    sums[number] += scores[batch.index(one[:depth]), one[depth]]
    assert first is not None, "names are not empty"
    return sums.softmax(0).tolist(), first


def _next_token_scores(
    model: Any,
    processor: Any,
    source: vtc.VideoSource,
    question: str,
    prefixes: Sequence[tuple[int, ...]],
) -> Tensor:
    """Return log-probabilities ``[n, V]`` float64 of the token after each start of an answer."""
    count = len(prefixes)
    inputs = vtc.prepare_inputs(model, processor, [source] * count, [question] * count)
    ids = inputs["input_ids"]
    starts = torch.tensor(prefixes, dtype=ids.dtype, device=ids.device).reshape(count, -1)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape[:2] == ids.shape:
            more = {"input_ids": starts, "attention_mask": torch.ones_like(starts)}
            added = more.get(name, torch.zeros_like(starts)).to(value.dtype)
            inputs[name] = torch.cat([value, added], dim=1)
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
    """Return the average precision of a ranking: the precision at each positive, on average.

    Items of one score are ranked together: each of them counts all of them.

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
        scores: ``[clips, classes]``; 0 where a class was no option of a clip.
        answers: The class of each clip. Classes without a clip do not count.

    Returns:
        The mean, and an interval of a bootstrap over the classes.
    """
    right = np.asarray(answers)
    present = sorted({*answers})
    each = [average_precision(scores[:, one].tolist(), (right == one).tolist()) for one in present]
    return float(np.mean(each)), interval([each])
