"""Action recognition as multiple choice (Table 4 of ViLAMP): readers and questions.

The paper states neither the number of answer options nor how they were drawn, so both are
configurable.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtc.plugins.sections import Row, load_json, parse, read_json, read_text

QUESTION = "Which action does the video show?"
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class Clip:
    """A video of a benchmark.

    Attributes:
        file: The path, relative to the folder of videos.
        labels: Its actions, as text; the first is the answer, and none of them is used as a
            distractor.
    """

    file: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """The clips of a test set, and the labels of all classes."""

    clips: tuple[Clip, ...]
    labels: tuple[str, ...]


def read_ucf101(folder: Path) -> Benchmark:
    """Read UCF-101, split 1: ``classInd.txt`` and ``testlist01.txt`` in a folder.

    Raises:
        ValueError: A file cannot be read, or a line is malformed.
    """
    labels = {}
    for number, line in enumerate(_lines(folder / "classInd.txt"), 1):
        index, _, name = line.partition(" ")
        if not index.isdecimal() or not name:
            where = folder / "classInd.txt"
            raise ValueError(f"{where}, line {number}: expected NUMBER CLASS, got {line!r}")
        labels[name] = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    clips = []
    for number, line in enumerate(_lines(folder / "testlist01.txt"), 1):
        name = line.partition("/")[0]
        if name not in labels:
            where = folder / "testlist01.txt"
            raise ValueError(f"{where}, line {number}: expected CLASS/FILE, got {line!r}")
        clips.append(Clip(line, (labels[name],)))
    return Benchmark(tuple(clips), tuple(labels.values()))


class _Something(Row):
    id: str
    template: str


def read_something_v2(folder: Path) -> Benchmark:
    """Read Something-Something V2: ``labels.json`` and ``validation.json`` in a folder.

    Raises:
        ValueError: A file cannot be read or is malformed.
    """
    file = folder / "validation.json"
    labels = tuple(load_json(folder / "labels.json"))
    clips = []
    for number, entry in enumerate(load_json(file)):
        row = parse(_Something, entry, f"{file}, entry {number}")
        label = row.template.replace("[", "").replace("]", "")
        if label not in labels:
            raise ValueError(f"{file}, entry {number}: labels.json has no {label!r}")
        clips.append(Clip(f"{row.id}.webm", (label,)))
    return Benchmark(tuple(clips), labels)


class _Annotation(Row):
    label: str


class _Video(Row):
    subset: str
    annotations: list[_Annotation]


class _ActivityNet(Row):
    database: dict[str, _Video]


def read_activitynet(file: Path) -> Benchmark:
    """Read the validation set of ActivityNet 1.3: ``activity_net.v1-3.min.json``.

    The answer is the label of the first segment; a video may have other labels.

    Raises:
        ValueError: The file cannot be read or is malformed.
    """
    database = read_json(file, _ActivityNet).database
    labels = {
        name: tuple(dict.fromkeys(a.label for a in v.annotations)) for name, v in database.items()
    }
    clips = [
        Clip(f"v_{name}.mp4", labels[name])
        for name, video in database.items()
        if video.subset == "validation" and labels[name]
    ]
    return Benchmark(
        tuple(clips), tuple(sorted({label for names in labels.values() for label in names}))
    )


READERS: dict[str, Callable[[Path], Benchmark]] = {
    "ucf101": read_ucf101,
    "something_v2": read_something_v2,
    "activitynet": read_activitynet,
}


def make_question(
    clip: Clip,
    labels: Sequence[str],
    count: int | None,
    seed: int,
    nearest: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return the multiple-choice question about a clip.

    Args:
        labels: All labels of the benchmark.
        count: Number of options; None for all labels.
        seed: The seed of the options, combined with the name of the video.
        nearest: The other labels of each label, most similar first; None draws them at random.

    Returns:
        ``question``, which includes the ``options``; ``choices``, their letters (or numbers of
        equal length, ``001`` ..., if there are more than 26); and ``answer``, one of the choices.
    """
    rng = random.Random(hashlib.sha256(f"{seed} {clip.file}".encode()).hexdigest())
    answer = clip.labels[0]
    others = [label for label in labels if label not in clip.labels]
    count = len(others) + 1 if count is None else min(count, len(others) + 1)
    if nearest is not None:
        similar = [label for label in nearest[answer] if label not in clip.labels]
        options = [answer, *similar[: count - 1]]
    else:
        options = [answer, *rng.sample(others, count - 1)]
    rng.shuffle(options)
    width = len(str(count))
    names = [chr(ord("A") + n) if count <= 26 else f"{n + 1:0{width}}" for n in range(count)]
    lines = "".join(f"\n{name}. {option}" for name, option in zip(names, options, strict=True))
    return {
        "question": QUESTION + lines,
        "answer": names[options.index(answer)],
        "choices": names,
        "options": options,
    }


def nearest_labels(labels: Sequence[str], encoder: str) -> dict[str, list[str]]:
    """Return the other labels of each label, by descending cosine of their text embeddings."""
    import torch

    from vtc.encoders.lazy import load_encoder

    model = load_encoder(encoder)
    embeddings = torch.stack([model.encode_text(label) for label in labels]).float()
    order = (embeddings @ embeddings.T).argsort(dim=1, descending=True, stable=True)
    return {
        label: [labels[n] for n in row if labels[n] != label]
        for label, row in zip(labels, order.tolist(), strict=True)
    }


def make_questions(
    benchmark: str,
    annotations: Path,
    videos: Path,
    *,
    count: int | None = 4,
    similar_by: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    only_present: bool = False,
) -> list[dict[str, Any]]:
    """Return the questions about the clips of a benchmark.

    Args:
        benchmark: One of ``READERS``.
        annotations: The folder, or file, of annotations.
        videos: The folder of videos.
        count: Number of options; None for all labels.
        similar_by: The frame encoder that finds the labels most similar to the answer; None draws
            distractors at random.
        limit: Number of clips to draw; None for all.
        seed: The seed of clips and options.
        only_present: Skip clips whose video is missing.

    Returns:
        The result of `make_question` with ``video`` and ``kind`` for each clip.

    Raises:
        ValueError: Annotations are malformed, or videos are missing.
    """
    if benchmark not in READERS:
        raise ValueError(f"expected one of {', '.join(READERS)}, got {benchmark!r}")
    test = READERS[benchmark](annotations)
    if not test.clips:
        raise ValueError(f"expected at least one test video in {annotations}, got none")
    clips = sorted(test.clips, key=lambda clip: clip.file)
    for clip, following in itertools.pairwise(clips):
        if clip.file == following.file:
            raise ValueError(f"expected each video once in {annotations}, got {clip.file} twice")
    files = {clip: file for clip in clips if (file := _find_file(videos / clip.file)) is not None}
    if only_present and files:
        clips = [clip for clip in clips if clip in files]
    if limit is not None:
        clips = random.Random(seed).sample(clips, min(limit, len(clips)))
    missing = [clip.file for clip in clips if clip not in files]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(clips)} videos are missing, such as {videos / missing[0]}; "
            "complete the folder, or skip them with --only-present"
        )
    nearest = None if similar_by is None else nearest_labels(test.labels, similar_by)
    rows = [
        {
            "video": str(files[clip].absolute()),
            **make_question(clip, test.labels, count, seed, nearest),
            "kind": benchmark,
        }
        for clip in clips
    ]
    return rows


def _find_file(file: Path) -> Path | None:
    """Return a video, which may have another suffix than usual; None if there is none."""
    files = (file, *(file.with_suffix(suffix) for suffix in _SUFFIXES))
    return next((file for file in files if file.is_file()), None)


def parse_count(options: str) -> int | None:
    """Parse the number of options; None for ``all``.

    Raises:
        ValueError: It is neither ``all`` nor a number of at least 2.
    """
    if options == "all":
        return None
    if not options.isdecimal() or int(options) < 2:
        raise ValueError(f"expected options to be all or a number >= 2, got {options!r}")
    return int(options)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]
