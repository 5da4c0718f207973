"""Choose the keyframes of a video file without a language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtc.pages.pictures import Pictures
from vtc.pipeline.caching import StoredEmbeddings
from vtc.pipeline.report import Progress, Recorder, Report, VideoReport, keyframes_of, numbers_of
from vtc.pipeline.selection import embed_query, select_for_queries
from vtc.plugins import registry

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.video import VideoSource


def select_video(
    source: VideoSource,
    query: str | None,
    spec: Mapping[str, Any],
    encoder: FrameEncoder,
    progress: Progress | None = None,
) -> Report:
    """Choose the keyframes of one video for one query; see `select_for_texts`."""
    return select_for_texts(source, [query], spec, encoder, progress)[0]


def select_for_texts(
    source: VideoSource,
    queries: Sequence[str | None],
    spec: Mapping[str, Any],
    encoder: FrameEncoder,
    progress: Progress | None = None,
) -> list[Report]:
    """Return a report for each query: the keyframes, and the relevance of all frames.

    The video is decoded and embedded once.

    Args:
        queries: The texts to look for; None only for selectors that take no query.
        spec: The selector, ``{"name": ..., **options}``.
        encoder: The frame encoder, in place of the one that the selector may name; it runs only
            if the selector uses embeddings.
        progress: Called with the stage, the number of frames done, and the total.

    Raises:
        ValueError: The selector is unknown or needs a query.
    """
    selector = registry.build_part("selector", spec)
    if selector.uses_query and None in queries:
        raise ValueError(
            f"selector {spec['name']!r} needs a query: vtc select VIDEO 'what to find'"
        )
    timestamps = torch.as_tensor(source.timestamps)
    shared = Report(selector=registry.spec_of(selector), merger={})
    recorder = Recorder(shared, progress)
    stored = None
    if source.cache is not None and selector.uses_embeddings:
        stored = StoredEmbeddings(source, encoder, 1, recorder)
    selections, _ = select_for_queries(
        selector,
        encoder,
        _rgb(source),
        len(source),
        timestamps,
        [
            None if query is None else partial(embed_query, encoder, query, recorder)
            for query in queries
        ],
        recorder,
        spec["name"],
        stored,
        partial(_rgb, source),
    )
    recorder.warn(*source.warnings)
    reports = []
    for query, selection in zip(queries, selections, strict=True):
        video = VideoReport(
            name=source.name,
            frames=len(source),
            keyframes=keyframes_of(selection, timestamps),
            tokens_before=0,
            tokens_after=0,
            query=query,
            timestamps=numbers_of(timestamps),
            relevance=numbers_of(selection.relevance),
            cache=() if stored is None else (stored.use,),
            pictures=Pictures(source=source),
        )
        warnings = list(shared.warnings)
        if not video.keyframes:
            warnings.append("the selector chose no keyframe, so there are no pictures")
        reports.append(replace(shared, videos=[video], warnings=warnings))
    return reports


def _rgb(source: VideoSource, frames: Sequence[int] | None = None) -> Iterator[Tensor]:
    for chunk in source.chunks(frames):  # decoding starts with the first chunk that is taken
        yield torch.from_numpy(chunk.frames)
