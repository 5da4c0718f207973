"""Turn conversations into batches for a wrapped model: ids, labels and unread videos."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtc.interfaces.prompts import needs_special_tokens
from vtc.pipeline.feed import VideoRequest
from vtc.pipeline.toolkit import Toolkit
from vtc.video import VideoSource
from vtc_recipes.training.data import Sample
from vtc_recipes.training.rows import Turn

IGNORED = -100
IMAGE_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Piece:
    """A piece of a conversation's text.

    Attributes:
        is_answer: Whether the model is trained on it.
    """

    text: str
    is_answer: bool


class Collator:
    """Collates samples into a batch for ``Trainer``.

    The prompt is the same as in ``vtc.ask``. Prompt and answers are tokenised separately, so that
    training and inference see the same ids. Labels are the ids of the answers and of the tokens
    that end a turn, and -100 elsewhere.
    """

    def __init__(self, model: Any, toolkit: Toolkit, processor: Any) -> None:
        self._model, self._toolkit, self._processor = model, toolkit, processor

        self._warned = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return a left-padded batch: ids, mask, labels ``[B, L]``, and ``vtc_videos``."""
        sources = [open_video(sample) for sample in samples]
        for sample, source in zip(samples, sources, strict=True):
            if not self._warned and is_one_frame(sample, source):
                self._warned = True
                warnings.warn(one_frame_warning(sample), stacklevel=2)
        rows = [
            self.tokenise(sample, source) for sample, source in zip(samples, sources, strict=True)
        ]
        length = max(len(ids) for ids, _ in rows)
        padding = self._processor.tokenizer.pad_token_id
        ids = torch.full((len(rows), length), 0 if padding is None else padding)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for row, (row_ids, row_labels) in enumerate(rows):
            start = length - len(row_ids)
            ids[row, start:], labels[row, start:], mask[row, start:] = row_ids, row_labels, 1
        batch: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            **self._toolkit.adapter.text_inputs(self._model, ids),
        }
        videos = [VideoRequest(source, self._processor) for source in sources if source is not None]
        if videos:
            batch["vtc_videos"] = videos
            batch["vtc_query"] = [sample.query or sample.turns[-2].text for sample in samples]
        return batch

    def tokenise(self, sample: Sample, source: VideoSource | None) -> tuple[Tensor, Tensor]:
        """Return the ids and labels ``[L]`` of one sample."""
        ids: list[int] = []
        labels: list[int] = []
        for number, piece in enumerate(self._pieces(sample, source)):
            special = number == 0 and needs_special_tokens(self._processor, piece.text)
            new = self._processor.tokenizer(piece.text, add_special_tokens=special)["input_ids"]
            ids += new
            labels += new if piece.is_answer else [IGNORED] * len(new)
        return torch.tensor(ids), torch.tensor(labels)

    def _pieces(self, sample: Sample, source: VideoSource | None) -> list[Piece]:
        pieces = conversation(self._processor, sample.turns)
        if source is None:
            return pieces
        question = sample.turns[0].text
        plain = _render(self._processor, [Turn("user", question)], open_end=True)
        prompt = self._toolkit.adapter.prompt(self._processor, question, source)
        if pieces[0].text != plain:
            raise ValueError(
                "the chat template changes the first turn if others follow; set one that does not"
            )
        return [Piece(prompt, False), *pieces[1:]]


def open_video(sample: Sample) -> VideoSource | None:
    """Open the video of a sample without reading it; a still image is a video of one frame.

    Raises:
        VideoError: The file cannot be opened.
    """
    if sample.video is None:
        return None
    if _is_image(sample):
        from PIL import Image

        with Image.open(sample.video) as image:
            return VideoSource([image.convert("RGB")])
    source = sample.source
    return VideoSource(str(sample.video), fps=source.fps, max_frames=source.max_frames)


def is_one_frame(sample: Sample, source: VideoSource | None) -> bool:
    """Return whether the sample is a video, not a still image, with a single frame."""
    return source is not None and len(source) == 1 and not _is_image(sample)


def one_frame_warning(sample: Sample) -> str:
    """Return the warning for a sample with `is_one_frame`."""
    return (
        f"{sample.video} has 1 frame at fps={sample.source.fps:g}, so no frames are merged and the "
        f"merger does not train on it; raise fps of the source {sample.source.name}"
    )


def _is_image(sample: Sample) -> bool:
    return sample.video is not None and sample.video.suffix.lower() in IMAGE_ENDINGS


def conversation(processor: Any, turns: Sequence[Turn]) -> list[Piece]:
    """Render a conversation with the chat template and split the text at its answers.

    The text before an answer ends with the template's generation prompt, as in ``vtc.ask``.

    Raises:
        ValueError: The template changes earlier turns if later ones follow, or changes answers, so
            that the answers cannot be located.
    """
    pieces: list[Piece] = []
    written, between = "", ""
    for number in range(1, len(turns), 2):
        question = _render(processor, turns[:number])
        opening = _after(question, _render(processor, turns[:number], open_end=True))
        whole = _render(processor, turns[: number + 1])
        rest, marks = _after(question, whole), opening.rstrip()
        skip = (
            len(marks) if rest.startswith(marks) else 0
        )  # a short answer may also occur in the marks
        head, answer, tail = _around(turns[number].text, rest[skip:])
        head = rest[:skip] + head
        if head.split() != opening.split():
            raise _not_located(f"{opening!r} before the answer, got {head!r}")
        prompt = between + _after(written, question) + opening
        pieces += [Piece(prompt, False), Piece(answer + tail.rstrip(), True)]
        written, between = whole, tail[len(tail.rstrip()) :]
    return pieces


def _after(start: str, text: str) -> str:
    if not text.startswith(start):
        raise _not_located(f"text that starts with {start!r:.200}, got {text!r:.200}")
    return text[len(start) :]


def _around(answer: str, text: str) -> tuple[str, str, str]:
    """Split the text of a turn into the text before the answer, the answer, and the rest."""
    for form in (answer, answer.strip()):  # some templates strip the answer
        head, match, tail = text.partition(form)
        if match:
            return head, form, tail
    raise _not_located(f"{answer!r:.200}, got {text!r:.200}")


def _not_located(expected: str) -> ValueError:
    return ValueError(
        f"cannot locate the answer in the chat template's output: expected {expected}"
    )


def _render(processor: Any, turns: Sequence[Turn], open_end: bool = False) -> str:
    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in turns
    ]
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"this {type(processor).__name__} has no chat_template, so "
            "conversations cannot be rendered; set processor.chat_template"
        )
    text: str = processor.apply_chat_template(
        messages, add_generation_prompt=open_end, tokenize=False
    )
    return text
