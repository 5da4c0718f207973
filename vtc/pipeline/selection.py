"""Choose keyframes: run the frame encoder over a video, then the selector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vtc.interfaces.frame_selector import LazySelector, Selection
from vtc.interfaces.part import part_errors
from vtc.plugins.registry import label_of

if TYPE_CHECKING:
    from vtc.encoders.base import FrameEncoder
    from vtc.interfaces.frame_selector import FrameSelector
    from vtc.pipeline.caching import StoredEmbeddings
    from vtc.pipeline.report import Recorder

FramesOf = Callable[[Sequence[int]], Iterable[Tensor]]
"""From the numbers of frames, ascending, to their chunks ``[n, H, W, 3]`` uint8 RGB."""


def select_frames(
    selector: FrameSelector,
    encoder: FrameEncoder,
    frames: Iterable[Tensor],
    count: int,
    timestamps: Tensor | None,
    query: Callable[[], Tensor] | None,
    recorder: Recorder,
    name: str,
    stored: StoredEmbeddings | None = None,
) -> Selection:
    """Choose the keyframes of one video for one query; see `select_for_queries`."""
    selections, _ = select_for_queries(
        selector, encoder, frames, count, timestamps, [query], recorder, name, stored
    )
    return selections[0]


def select_for_queries(
    selector: FrameSelector,
    encoder: FrameEncoder,
    frames: Iterable[Tensor],
    count: int,
    timestamps: Tensor | None,
    queries: Sequence[Callable[[], Tensor] | None],
    recorder: Recorder,
    name: str,
    stored: StoredEmbeddings | None = None,
    frames_of: FramesOf | None = None,
) -> tuple[list[Selection], Tensor]:
    """Choose the keyframes of one video for each query; the frames are embedded once.

    Args:
        selector: The selector; the encoder runs only if the selector uses embeddings.
        encoder: The frame encoder.
        frames: Chunks of uint8 RGB frames ``[n, H, W, 3]``, in order; read only if needed.
        count: N, the number of frames in all chunks.
        timestamps: ``[N]`` float64 seconds; None if unknown.
        queries: Functions that return the embedding ``[d]`` of a query, called only if the
            selector uses it; None without a query.
        recorder: Takes the times of the stages.
        name: The selector's name, for messages.
        stored: The embeddings in the video's cache; missing ones are stored.
        frames_of: Yields some frames, ascending, as ``frames`` yields all; with it a `LazySelector`
            sees those alone, unless all embeddings are stored.

    Returns:
        The selections, and the embeddings ``[N, d]``; ``[N, 0]`` if the selector uses none.

    Raises:
        ValueError: The selector needs a query, or returned frames that are not in the video.
        TypeError: The selector did not return frame numbers.
    """
    if selector.uses_query and any(query is None for query in queries):
        raise ValueError(
            f"selector {name!r} needs a query: pass processor=... to vtc.wrap (or to "
            "vtc.from_pretrained), so that the last user turn can be read, or vtc_query='...' to "
            "the call"
        )
    embeddings = torch.empty(count, 0)
    query_embeddings: list[Tensor | None] = [None] * len(queries)
    if selector.uses_embeddings:
        if selector.uses_query:
            query_embeddings = [None if query is None else query() for query in queries]
        if (
            isinstance(selector, LazySelector)
            and frames_of is not None
            and (stored is None or stored.embeddings is None)
        ):
            looks = FewFrames(encoder, frames_of, recorder)
            texts = [one for one in query_embeddings if one is not None]  # all: it uses the query
            return _search(selector, looks, count, timestamps, texts, name), embeddings
        if stored is not None and stored.embeddings is not None:
            embeddings = stored.embeddings
        else:
            embeddings = embed_frames(encoder, frames, count, recorder)
            if stored is not None:
                stored.store_embeddings(embeddings)
    if timestamps is not None and embeddings.device.type != "mps":  # mps has no float64
        timestamps = timestamps.to(embeddings.device)
    selections = []
    for query_embedding in query_embeddings:
        with recorder.stage("selection") as stage:
            with part_errors(label_of("selector", selector)):
                selection = selector.select(embeddings, query_embedding, timestamps)
            _check(selection, count, name)
            stage.bytes += selection.keyframes.nbytes
        selections.append(selection)
    return selections, embeddings


class FewFrames:
    """Embeds frames as they are asked for, each once.

    Attributes:
        recorder: Takes the times of the stages.
    """

    def __init__(self, encoder: FrameEncoder, frames_of: FramesOf, recorder: Recorder) -> None:
        self._encoder, self._frames_of, self.recorder = encoder, frames_of, recorder
        self._embeddings: dict[int, Tensor] = {}

    def scores(self, query: Tensor, frames: Tensor) -> Tensor:
        """Return the cosines ``[n]`` float32 of frames ``[n]`` and a query, on the CPU."""
        new = sorted(set(frames.tolist()) - self._embeddings.keys())
        if new:
            embedded = embed_frames(self._encoder, self._frames_of(new), len(new), self.recorder)
            self._embeddings.update(zip(new, embedded, strict=True))
        if not len(frames):
            return torch.zeros(0)
        rows = torch.stack([self._embeddings[number] for number in frames.tolist()])
        return (rows.float() @ query.to(rows.device).float()).cpu()


def _search(
    selector: LazySelector,
    looks: FewFrames,
    count: int,
    timestamps: Tensor | None,
    queries: Sequence[Tensor],
    name: str,
) -> list[Selection]:
    """Choose the keyframes for each query; only frames that the selector scores are read."""
    selections = []
    label = label_of("selector", selector)
    for query in queries:
        with part_errors(label), torch.no_grad():
            score = functools.partial(looks.scores, query)
            selection = selector.search(score, count, timestamps)
        _check(selection, count, name)
        selections.append(selection)
    return selections


@torch.no_grad()  # selection has no gradient
def embed_query(encoder: FrameEncoder, text: str, recorder: Recorder) -> Tensor:
    """Embed a query: ``[d]`` float32, L2-normalised; warn if its text was cut or split."""
    embedding = encoder.encode_text(text)
    recorder.warn(*encoder.text_notes(text))
    return embedding


@torch.no_grad()  # selection has no gradient, and a graph would keep all frames alive
def embed_frames(
    encoder: FrameEncoder, frames: Iterable[Tensor], count: int, recorder: Recorder
) -> Tensor:
    """Embed the frames of one video, given in chunks: ``[count, d]`` float32, without gradients."""
    chunks: list[Tensor] = []
    done = 0
    for chunk in recorder.waited("decoding", frames):
        recorder.report.stages["decoding"].bytes += chunk.nbytes
        with recorder.stage("frame encoder") as stage:
            chunks.append(encoder.encode_frames(chunk))
            stage.bytes += chunks[-1].nbytes
        done += len(chunk)
        recorder.progress("frame encoder", done, count)
    return torch.cat(chunks)


def _check(selection: object, count: int, name: str) -> None:
    """Raise if a selection is malformed, which could silently shuffle or repeat frames."""
    if not isinstance(selection, Selection) or not isinstance(selection.keyframes, Tensor):
        raise TypeError(
            f"expected selector {name!r} to return a vtc.Selection of tensors, got {selection!r}"
        )
    keyframes, relevance = selection.keyframes, selection.relevance
    if keyframes.dtype != torch.int64 or keyframes.ndim != 1:
        raise TypeError(
            f"expected selector {name!r} to return int64 keyframes [K], got "
            f"{keyframes.dtype} of shape {tuple(keyframes.shape)}"
        )
    inside = len(keyframes) == 0 or (keyframes[0] >= 0 and keyframes[-1] < count)
    if not inside or not bool((keyframes.diff() > 0).all()):
        raise ValueError(
            f"expected selector {name!r} to return ascending, unique keyframes from 0 to "
            f"{count - 1}, got {keyframes.tolist()}"
        )
    if relevance is not None and tuple(relevance.shape) != (count,):
        raise ValueError(
            f"expected selector {name!r} to return one relevance for each of the {count} frames, "
            f"or None, got the shape {tuple(relevance.shape)}"
        )
