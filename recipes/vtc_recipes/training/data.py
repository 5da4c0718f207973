"""Conversations about videos, read from the user's files and checked before training starts."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtc_recipes.training.config import Source

_PLACEHOLDER = re.compile(r"\s*<(?:video|image)>\s*")
_LLAVA_ROLES = {"human": "user", "gpt": "assistant"}
_SHOWN = 20
"""How many errors of one file are listed."""


@dataclass(frozen=True)
class Turn:
    """What one side says: ``role`` is ``"user"`` or ``"assistant"``."""

    role: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One conversation.

    Attributes:
        video: The file of the video, or of a still image, read as a video of one frame; None for
            text alone. It stands at the start of the first turn.
        turns: User and assistant by turns, the last one an answer.
        query: What frames are chosen for; None for the text of the last user turn.
        source: The data set it is of.
    """

    video: Path | None
    turns: tuple[Turn, ...]
    query: str | None
    source: Source


def missing_files(sources: Sequence[Source]) -> list[str]:
    """What is not here of the data, by the options that name it."""
    missing = []
    for number, source in enumerate(sources):
        if source.share and not (source.path and Path(source.path).expanduser().exists()):
            what = f"there is no {source.path} here" if source.path else "it is not set"
            missing.append(f"data.sources.{number}.path ({source.name}): {what}")
    return missing


def load_samples(sources: Sequence[Source], seed: int) -> list[Sample]:
    """Read all sources, in their order.

    Args:
        seed: Of the draw where a source's ``share`` is below one.

    Raises:
        ValueError: A path is not set, or a file is malformed or names videos that are missing;
            all that is wrong with the files is listed, with file and line or entry.
    """
    used = [(number, source) for number, source in enumerate(sources) if source.share > 0]
    unset = [f"data.sources.{n}.path ({s.name})" for n, s in used if s.path is None]
    if unset:
        raise ValueError(
            f"no file is set for {', '.join(unset)}; give data.sources.N.path=FILE, or "
            "data.sources.N.share=0 to leave a source out"
        )
    samples: list[Sample] = []
    for _, source in used:
        found = _read_source(source)
        if source.share < 1:
            count = max(1, round(source.share * len(found)))
            chosen = random.Random(f"{seed} {source.name}").sample(range(len(found)), count)
            found = [found[index] for index in sorted(chosen)]
        samples += found
    if not samples:
        raise ValueError("the data sources hold no sample")
    return samples


def _read_source(source: Source) -> list[Sample]:
    path = Path(str(source.path)).expanduser()
    folder = Path(source.video_folder).expanduser() if source.video_folder else path.parent
    samples, errors = [], []
    parse = _FORMATS[source.format]
    for where, entry in _entries(path):
        try:
            sample = parse(_expected(entry, dict, "an entry"), folder, source)
            _check_turns(sample.turns)
            if sample.video is not None and not sample.video.is_file():
                raise ValueError(f"there is no file {sample.video}")
            samples.append(sample)
        except ValueError as error:
            errors.append(f"{where}: {error}")
    if errors:
        more = f"\n  and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        listed = "".join(f"\n  {error}" for error in errors[:_SHOWN])
        raise ValueError(f"{source.name} has {len(errors)} bad samples:{listed}{more}")
    return samples


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON list or of a JSONL file, each with where it stands.

    Raises:
        ValueError: There is no such file, or it is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield f"{path}, line {number}", _json(line, f"{path}, line {number}")
        return
    entries = _json(text, str(path))
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds {type(entries).__name__}; allowed is a list of samples")
    for number, entry in enumerate(entries):
        yield f"{path}, entry {number}", entry


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is no valid JSON: {error}") from error


def _llava_sample(entry: Mapping[str, Any], folder: Path, source: Source) -> Sample:
    """``{"video": "a.mp4", "conversations": [{"from": "human", "value": "<video> Why?"}, ...]}``"""
    turns = []
    for turn in _expected(entry.get("conversations"), list, "conversations"):
        role = _expected(turn, dict, "a turn").get("from")
        if role not in _LLAVA_ROLES:
            raise ValueError(f"from: {role!r}: allowed are human and gpt")
        text = _expected(turn.get("value"), str, "value")
        turns.append(Turn(_LLAVA_ROLES[role], text))
    video = entry.get("video", entry.get("image"))
    marks = [len(_PLACEHOLDER.findall(turn.text)) for turn in turns]
    if sum(marks) > 1 or any(marks[1:]):
        raise ValueError("allowed is one <video>, in the first turn")
    if sum(marks) and video is None:
        raise ValueError("<video> stands in the text, but the sample names no video")
    if turns and marks[0]:
        turns[0] = Turn(turns[0].role, _PLACEHOLDER.sub(" ", turns[0].text).strip())
    return _sample(video, turns, entry, folder, source)


def _messages_sample(entry: Mapping[str, Any], folder: Path, source: Source) -> Sample:
    """``{"messages": [{"role": "user", "content": [{"type": "video", "video": FILE}]}, ...]}``"""
    turns, video = [], None
    for number, message in enumerate(_expected(entry.get("messages"), list, "messages")):
        role = _expected(message, dict, "a message").get("role")
        if role not in _LLAVA_ROLES.values():
            raise ValueError(f"role: {role!r}: allowed are user and assistant")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = []
        for place, part in enumerate(_expected(parts, list, "content")):
            kind = _expected(part, dict, "a part of the content").get("type")
            if kind == "text":
                texts.append(_expected(part.get("text"), str, "text"))
            elif kind not in ("video", "image"):
                raise ValueError(f"type: {kind!r}: allowed are video, image and text")
            elif number or place:
                raise ValueError(f"allowed is one {kind}, before the text of the first message")
            else:
                video = _expected(part.get(kind, part.get("path")), str, kind)
        turns.append(Turn(role, "\n".join(texts)))
    return _sample(video, turns, entry, folder, source)


def _sample(
    video: Any, turns: Sequence[Turn], entry: Mapping[str, Any], folder: Path, source: Source
) -> Sample:
    path = None if video is None else folder / Path(_expected(video, str, "video")).expanduser()
    query = entry.get("query")
    query = None if query is None else _expected(query, str, "query")
    return Sample(path, tuple(turns), query, source)


_FORMATS: dict[str, Callable[[Mapping[str, Any], Path, Source], Sample]] = {
    "llava_json": _llava_sample,
    "messages": _messages_sample,
}


def _check_turns(turns: Sequence[Turn]) -> None:
    if not turns or len(turns) % 2:
        raise ValueError(f"{len(turns)} turns: allowed are questions, each with its answer")
    for number, turn in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if turn.role != expected:
            raise ValueError(f"turn {number} is of the {turn.role}: allowed is the {expected}")
        if not turn.text.strip():
            raise ValueError(f"turn {number}, of the {turn.role}, has no text")


def _expected(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        kinds: dict[type, str] = {dict: "a mapping", list: "a list", str: "a text"}
        raise ValueError(f"{name}: {value!r:.60}: allowed is {kinds[kind]}")
    return value
