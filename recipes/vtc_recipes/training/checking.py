"""Check a recipe's data before training: errors, samples, steps and tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import torch

from vtc.video import VideoError, VideoSource
from vtc.wrapped.access import toolkit_of
from vtc_recipes.training.batches import (
    Collator,
    is_one_frame,
    one_frame_warning,
    open_video,
)
from vtc_recipes.training.config import Recipe
from vtc_recipes.training.data import Sample, missing_files, read_samples

OPENED = 16
"""Number of samples whose videos are opened, spread over all data."""


@dataclass(frozen=True)
class DataReport:
    """Statistics and errors of a recipe's data.

    Attributes:
        samples: Number of valid samples.
        steps: Number of optimiser steps when training in one process.
        opened: Number of samples whose videos were opened.
        tokens, most_tokens: Mean and maximum length of these prompts with their answers, after
            merging, with the maximum number of keyframes.
        errors, warnings: One line each.
        by_source: Number of valid samples per data set.
    """

    samples: int
    steps: int
    opened: int
    tokens: float
    most_tokens: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    by_source: dict[str, int] = field(default_factory=dict)


def check_data(recipe: Recipe, model: Any = None, processor: Any = None) -> DataReport:
    """Read all data files of a recipe, and open some of the videos.

    Args:
        model, processor: A wrapped model, for counting tokens; None skips the counts. Its weights
            are not used and may be on the meta device.
    """
    sources = [source for source in recipe.data.sources if source.share]
    errors = [f"{line} yet" for line in missing_files(sources)]
    existing = [
        source for source in sources if source.path and Path(source.path).expanduser().exists()
    ]
    samples, read_errors = read_samples(existing, recipe.optimisation.seed)
    errors += read_errors
    opened = 0
    lengths, warnings = [], []
    for sample in samples[:: ceil(len(samples) / OPENED) or 1]:
        try:
            source = open_video(sample)
            if model is not None:
                lengths.append(_tokens(model, processor, sample, source))
        except (ValueError, VideoError) as error:
            errors.append(f"{sample.source.name}: {sample.video}: {error}")
            continue
        if is_one_frame(sample, source):
            warnings.append(one_frame_warning(sample))
        opened += 1
    return DataReport(
        samples=len(samples),
        steps=_steps(recipe, len(samples)),
        opened=opened,
        tokens=sum(lengths) / max(1, len(lengths)),
        most_tokens=max(lengths, default=0),
        errors=tuple(errors),
        warnings=tuple(warnings),
        by_source=dict(Counter(sample.source.name for sample in samples)),
    )


def _steps(recipe: Recipe, samples: int) -> int:
    run = recipe.optimisation
    if run.steps is not None:
        return run.steps
    return ceil((run.epochs or 0) * ceil(ceil(samples / run.batch_size) / run.accumulation))


def _tokens(model: Any, processor: Any, sample: Sample, source: VideoSource | None) -> int:
    toolkit = toolkit_of(model)
    ids, _ = Collator(model, toolkit, processor).tokenise(sample, source)
    text = int((ids != toolkit.adapter.video_token_id(model)).sum())
    return text + (0 if source is None else _visual_tokens(model, processor, source))


def _visual_tokens(model: Any, processor: Any, source: VideoSource) -> int:
    """Count the visual tokens of a video after merging, with the maximum number of keyframes."""
    toolkit = toolkit_of(model)
    size = toolkit.adapter.frames_per_slice
    slices = ceil(len(source) / size)
    frames = torch.from_numpy(source.frames(range(min(size, len(source)))))
    frames = torch.cat([frames, frames[-1:].expand(size - len(frames), -1, -1, -1)])
    pixels = toolkit.adapter.preprocess(processor, frames, len(source))
    height, width = toolkit.adapter.slice_grid(model, pixels)
    config = getattr(toolkit.selector, "config", None)
    keyframes = min(getattr(config, "keyframes", slices), slices)
    merged = (slices - keyframes) * toolkit.merger.tokens_per_frame
    return keyframes * height * width + merged + toolkit.adapter.tail_length()
