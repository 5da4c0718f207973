"""QVHighlights (Table 3 of ViLAMP): how often the top k keyframes hit a highlight.

The paper does not define a hit. Three definitions are scored, each with its chance level:

* **peak**: a frame of a clip with the highest mean saliency; * **very_good**: a frame of a clip
that an annotator rated 4, the highest; * **relevant**: a frame of any relevant clip. The paper's
numbers are below the chance level of this definition.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtc.encoders.base import FrameEncoder
from vtc.encoders.lazy import LazyEncoder
from vtc.interfaces.part import part_errors, require
from vtc.pipeline.report import Recorder, Report
from vtc.pipeline.selection import embed_frames
from vtc.plugins import registry
from vtc.plugins.sections import Row, SectionError
from vtc.video import VideoError, VideoSource
from vtc_recipes.evaluation.bootstrap import wilson
from vtc_recipes.evaluation.resuming import append_lines, read_lines
from vtc_recipes.reading import read_rows

CLIP_SECONDS = 2
RANKS = (1, 5, 10, 30)
DEFINITIONS = ("peak", "very_good", "relevant")
_BEST = 4
_DRAWS = 1000


@dataclass(frozen=True)
class Query:
    """A query of the annotations.

    Attributes:
        qid: The id of the query.
        text: The query.
        video: The name of the video file without its suffix.
        clips: The indices of the relevant clips, each two seconds long.
        saliency: Ratings of each relevant clip by three annotators, 0 to 4.
    """

    qid: int
    text: str
    video: str
    clips: tuple[int, ...]
    saliency: tuple[tuple[int, ...], ...]

    def targets(self, definition: str) -> set[int]:
        """Return the indices of the clips that count as hits by one of ``DEFINITIONS``."""
        if definition == "relevant":
            return {*self.clips}
        if definition == "very_good":
            pairs = zip(self.clips, self.saliency, strict=True)
            return {clip for clip, ratings in pairs if _BEST in ratings}
        sums = [sum(ratings) for ratings in self.saliency]
        return {clip for clip, total in zip(self.clips, sums, strict=True) if total == max(sums)}


class _QueryRow(Row):
    qid: int
    query: str
    vid: str
    relevant_clip_ids: list[int]
    saliency_scores: list[list[int]]

    def contradictions(self) -> Iterator[str]:
        """Yield errors in the combination of values."""
        clips, scores = self.relevant_clip_ids, self.saliency_scores
        if not clips:
            yield "relevant_clip_ids: expected at least one clip, got none"
        if len(clips) != len(scores) or not all(scores):
            yield (
                f"saliency_scores: expected scores for each of {len(clips)} relevant_clip_ids, got "
                f"{len(scores)}"
            )


def read_queries(path: str | os.PathLike[str]) -> list[Query]:
    """Read annotations, such as ``highlight_val_release.jsonl``.

    Raises:
        ValueError: There are no queries. As `SectionError`, all errors: a line is not a query with
            at least one relevant clip, or an id appears twice.
    """
    rows, errors = read_rows(Path(path), _QueryRow)
    count = Counter(row.qid for _, row in rows)
    errors += [f"{path}: qid {qid} appears {n} times" for qid, n in count.items() if n > 1]
    if errors:
        raise SectionError(str(path), errors[:20])
    if not rows:
        raise ValueError(f"{path}: expected at least one query, got none")
    return [
        Query(
            row.qid,
            row.query,
            row.vid,
            tuple(row.relevant_clip_ids),
            tuple(map(tuple, row.saliency_scores)),
        )
        for _, row in rows
    ]


def find_videos(
    queries: Iterable[Query], folder: str | os.PathLike[str], *, only_present: bool = False
) -> dict[str, Path]:
    """Return the file of each video in the queries.

    Args:
        only_present: Leave out missing videos.

    Raises:
        ValueError: Videos are missing; the message gives their number and the first one.
    """
    files = {query.video: Path(folder, f"{query.video}.mp4") for query in queries}
    present = {name: file for name, file in files.items() if file.is_file()}
    missing = [str(file) for name, file in files.items() if name not in present]
    if missing and not (only_present and present):
        raise ValueError(
            f"{len(missing)} of {len(files)} videos are missing, such as {missing[0]}; complete "
            "the folder, or skip their queries with --only-present"
        )
    return present


def chance(frames: int, targets: int, k: int) -> float:
    """Return the probability that k random frames of a video include a target.

    Args:
        frames: N, the number of frames of the video.
        targets: Number of frames that count as hits.
        k: Number of distinct frames drawn; all N if k is larger.

    >>> round(chance(frames=4, targets=1, k=2), 3)
    0.5
    """
    drawn = min(k, frames)
    if frames - targets < drawn:
        return 1.0 if targets else 0.0
    return 1 - math.comb(frames - targets, drawn) / math.comb(frames, drawn)


def score_query(
    query: Query,
    timestamps: Sequence[float],
    keyframes: Mapping[int, Sequence[int]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Score the keyframes of one query.

    Args:
        query: The query.
        timestamps: Seconds of each frame.
        keyframes: The indices of the top k frames, by k.
        rng: The random generator for the simulated chance level.

    Returns:
        ``qid``, ``frames``, the number of ``keyframes`` by k, and by definition and k
        (``"peak@5"``): ``hit``, 0 or 1, ``chance`` in closed form, and ``simulated``, the hit rate
        of random frames.
    """
    clips = [int(second // CLIP_SECONDS) for second in timestamps]
    record: dict[str, Any] = {"qid": query.qid, "frames": len(clips)}
    record |= {"keyframes": {str(k): len(numbers) for k, numbers in keyframes.items()}}
    record |= {"hit": {}, "chance": {}, "simulated": {}}
    for definition in DEFINITIONS:
        targets = query.targets(definition)
        is_target = np.array([clip in targets for clip in clips])
        order = rng.random((_DRAWS, len(clips))).argsort(axis=1)
        for k, numbers in keyframes.items():
            name = f"{definition}@{k}"
            record["hit"][name] = int(any(is_target[number] for number in numbers))
            record["chance"][name] = chance(len(clips), int(is_target.sum()), k)
            record["simulated"][name] = float(is_target[order[:, :k]].any(axis=1).mean())
    return record


class Ranker:
    """Selects the top k frames of videos for queries.

    Args:
        selector: The name, options or instance of a selector with the option ``keyframes``; a new
            one is built for every k.
        encoder: The frame encoder, unless the selector names its own.
        device: The device of the encoder.

    Raises:
        ValueError: The selector has no option ``keyframes``.
    """

    def __init__(
        self, selector: Any, encoder: str | FrameEncoder, device: str, ranks: Sequence[int] = RANKS
    ) -> None:
        self.spec = registry.spec_of(registry.build_part("selector", selector))
        name = self.spec["name"]
        require("keyframes" in self.spec, "selector", name, "one with the option 'keyframes'")
        self.parts = {
            k: registry.build_part("selector", {**self.spec, "keyframes": k}) for k in ranks
        }
        first = self.parts[ranks[0]]
        self.uses_embeddings, self.uses_query = first.uses_embeddings, first.uses_query
        self.encoder = LazyEncoder(first.encoder or encoder, device=device)
        self._last: tuple[Path, Tensor, Tensor] | None = None

    @torch.no_grad()
    def rank(self, file: Path, text: str) -> tuple[list[float], dict[int, list[int]]]:
        """Return the seconds of all frames, at one per second, and the top k frames by k.

        Consecutive queries about the same video share its embeddings.
        """
        if self._last is None or self._last[0] != file:
            source = VideoSource(file, fps=1.0)
            embeddings = torch.empty(len(source), 0)
            if self.uses_embeddings:
                chunks = (torch.from_numpy(chunk.frames) for chunk in source.chunks())
                recorder = Recorder(Report(selector={}, merger={}))
                embeddings = embed_frames(self.encoder, chunks, len(source), recorder)
            self._last = file, embeddings, torch.as_tensor(source.timestamps)
        _, embeddings, timestamps = self._last
        query = None
        if self.uses_embeddings and self.uses_query:
            query = self.encoder.encode_text(text)
        keyframes = {}
        with part_errors(f"selector {self.spec['name']!r}"):
            for k, part in self.parts.items():
                keyframes[k] = part.select(embeddings, query, timestamps).keyframes.tolist()
        return timestamps.tolist(), keyframes


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the means over queries by definition and k, such as ``"peak@5"``.

    Returns:
        ``hit`` with its 95 % ``interval`` (Wilson), ``chance`` and ``simulated``, all 0 to 1; and
        ``keyframes``, the mean number of frames, which some selectors keep below k.

    Raises:
        ValueError: There is no record.
    """
    if not records:
        raise ValueError("expected at least one scored query, got none")
    results = {}
    for name in records[0]["hit"]:
        k = name.rpartition("@")[2]
        hits = sum(record["hit"][name] for record in records)
        results[name] = {
            "hit": hits / len(records),
            "interval": wilson(hits, len(records)),
            "chance": sum(record["chance"][name] for record in records) / len(records),
            "simulated": sum(record["simulated"][name] for record in records) / len(records),
            "keyframes": sum(record["keyframes"][k] for record in records) / len(records),
        }
    return results


def run(
    queries: Sequence[Query],
    videos: Mapping[str, Path],
    ranker: Ranker,
    progress: Callable[[int, int], None] = lambda done, total: None,
    file: Path | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Score queries; queries about the same video are scored together.

    Args:
        file: Stores each record at once; queries with a record in it are not scored again.

    Returns:
        The records of `score_query` in the order of the queries, and one line for each query whose
        video cannot be read, which has no record.
    """
    records = {} if file is None else {record["qid"]: record for record in read_lines(file)}
    errors = []
    order = sorted(queries, key=lambda query: query.video)
    for done, query in enumerate(order, 1):
        if query.qid not in records:
            try:
                timestamps, keyframes = ranker.rank(videos[query.video], query.text)
            except VideoError as error:
                errors.append(f"{query.qid}: {error}")
            else:
                rng = np.random.default_rng(query.qid)
                record = score_query(query, timestamps, keyframes, rng)
                records[query.qid] = record
                if file is not None:
                    append_lines(file, [record])
        progress(done, len(queries))
    return [records[query.qid] for query in queries if query.qid in records], errors
