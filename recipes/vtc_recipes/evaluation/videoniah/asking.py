"""Ask a model about VideoNIAH cases, with its own parts and in the settings of the controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from string import ascii_uppercase
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

import vtc
from vtc.interfaces.prompts import needs_special_tokens
from vtc.interfaces.video_adapter import chat_prompt
from vtc.pipeline.modules import input_device
from vtc.plugins import registry
from vtc.wrapped.access import toolkit_of
from vtc_recipes.evaluation.videoniah.choices import chosen_letter

if TYPE_CHECKING:
    from vtc.video import VideoSource
    from vtc_recipes.evaluation.videoniah.cases import NiahCase
    from vtc_recipes.evaluation.videoniah.haystack import Haystacks

MODEL = "model"
"""The setting with the model's own parts."""
CONTROLS = ("uniform", "random", "downsampled", "no_video")
PROMPT = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter ({letters}) of the correct option.\n{question}\n{options}\n"
    "The best answer is:"
)
"""Video-MME's prompt."""
_PARTS = ("budget", "selector", "merger", "connector")


def check_prompt(prompt: str) -> None:
    """Validate a prompt.

    Raises:
        ValueError: The prompt lacks the question or has unknown names in braces.
    """
    try:
        text = prompt.format(question="{question}", options="", letters="")
    except (LookupError, ValueError) as error:
        raise ValueError(
            "expected only {question}, {options} and {letters} in the braces of the prompt, got "
            f"{prompt!r}"
        ) from error
    if "{question}" not in text:
        raise ValueError(f"expected {{question}} in the prompt, got {prompt!r}")


def prompt_of(case: NiahCase, prompt: str) -> str:
    """Fill in a prompt."""
    letters = ascii_uppercase[: len(case.options)]
    lines = (f"{letter}. {text}" for letter, text in zip(letters, case.options, strict=True))
    letter_list = (
        f"{', '.join(letters[:-1])}, or {letters[-1]}" if len(letters) > 2 else " or ".join(letters)
    )
    return prompt.format(question=case.question, options="\n".join(lines), letters=letter_list)


class Asker:
    """Asks a wrapped model about cases in several settings.

    Settings are ``model``, with the model's own parts, and the controls: ``uniform`` and ``random``
    keyframes, as many as the model has, with the same merger; ``downsampled``, only evenly spaced
    frames, with as many tokens as ``model`` used; and ``no_video``. Keyframes are selected for the
    question without its options, as in ViLAMP's released code.

    Args:
        model: A model that ``vtc.wrap`` returned.
        processor: Its stock processor.
        haystacks: Opens the videos.
        prompt: Text with ``{question}``, ``{options}`` and ``{letters}`` to fill in.
        cached: Whether to take frame embeddings from the cache of the haystacks.
        max_new_tokens: Maximum length of an answer.

    Raises:
        ValueError: The prompt has unknown names in braces.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        haystacks: Haystacks,
        prompt: str = PROMPT,
        *,
        cached: bool = False,
        max_new_tokens: int = 16,
    ) -> None:
        check_prompt(prompt)
        self._model, self._processor, self._haystacks = model, processor, haystacks
        self._prompt, self._cached, self._limit = prompt, cached, max_new_tokens
        self._toolkit = toolkit_of(model)
        selector = self._toolkit.describe(self._toolkit.selector)
        self._keyframes = int(selector.get("keyframes") or 32)

    def ask(self, case: NiahCase, setting: str, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask about a case in a setting.

        Args:
            case: The case.
            setting: ``model`` or a control.
            before: The record of ``model`` for this case, which ``downsampled`` needs.

        Returns:
            A record: the answer, the letter in it, whether it is right, and statistics of the
                video.

        Raises:
            VideoError: A file cannot be read.
            ValueError: A file is shorter than when the cases were made.
        """
        text = prompt_of(case, self._prompt)
        start = perf_counter()
        record = {
            "case": case.id,
            "setting": setting,
            "length": case.length,
            "depth": case.depth,
            "kind": case.kind,
        }
        if setting == "no_video":
            record |= self._without_video(text)
        else:
            source = self._haystacks.video(case)
            with self._parts(case, setting, before):
                record |= self._with_video(case, source, text)
        letter = chosen_letter(str(record["text"]), case.options)
        return {
            **record,
            "choice": letter,
            "answer": case.answer,
            "score": float(letter == case.answer),
            "chance": 1 / len(case.options),
            "seconds": round(perf_counter() - start, 3),
        }

    def _with_video(self, case: NiahCase, source: VideoSource, text: str) -> dict[str, Any]:
        if self._cached and self._toolkit.selector.uses_embeddings:
            encoder = self._toolkit.encoders_on(input_device(self._model))[1]
            self._haystacks.embed(case, encoder, self._toolkit.progress)
        inputs = vtc.prepare_inputs(self._model, self._processor, source, text)
        inputs["vtc_query"] = [case.question]
        answer = self._generate(inputs)
        report = vtc.last_report(self._model)
        video = report.videos[0]
        inside = range(case.start, case.start + case.needle.frames)
        return {
            "text": answer,
            "keyframes": len(report.keyframes),
            "in_needle": sum(frame.index in inside for frame in report.keyframes),
            "tokens": report.tokens_after + report.text_after,
            "tokens_before": report.tokens_before + report.text_before,
            "slices": video.frames // video.frames_per_slice,
            "cached": [use.kind for use in video.cache if use.hit],
            "warnings": report.warnings,
        }

    def _without_video(self, text: str) -> dict[str, Any]:
        prompt = chat_prompt(self._processor, [], text)
        tokens = self._processor.tokenizer(
            [prompt],
            add_special_tokens=needs_special_tokens(self._processor, prompt),
            return_tensors="pt",
        )
        place = input_device(self._model)
        names = ("input_ids", "attention_mask")
        answer = self._generate({name: tokens[name].to(place) for name in names})
        return {"text": answer, "keyframes": 0, "in_needle": 0, "tokens": 0, "tokens_before": 0}

    def _generate(self, inputs: Mapping[str, Any]) -> str:
        """Return the text that the model adds to a prompt."""
        with torch.no_grad():
            result = self._model.generate(**inputs, max_new_tokens=self._limit, do_sample=False)
        new = result[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.decode(new, skip_special_tokens=True)).strip()

    @contextmanager
    def _parts(
        self, case: NiahCase, setting: str, before: Mapping[str, Any] | None
    ) -> Iterator[None]:
        """Give the model the parts of a setting within a context."""
        toolkit = self._toolkit
        original = {name: getattr(toolkit, name) for name in _PARTS}
        if setting == MODEL:
            yield
            return
        keyframes, parts = self._keyframes, dict[str, Any]()
        if setting == "downsampled":
            if before is None:
                raise ValueError(f"case {case.id}: downsampled needs the model's number of tokens")
            share = before["tokens"] / before["tokens_before"]
            keyframes = max(1, round(before["slices"] * share))
            merger = registry.build_part("merger", "drop")
            parts = {"budget": None, "connector": None, "merger": merger}
        name = "uniform" if setting == "downsampled" else setting
        spec: dict[str, Any] = {"name": name, "keyframes": keyframes}
        if setting == "random":
            spec["seed"] = int(case.id.rpartition("-")[2]) if case.id[-1].isdecimal() else 0
        parts["selector"] = registry.build_part("selector", spec)
        with toolkit.gate.change("ask with the parts of a control"):
            for part in parts:
                setattr(toolkit, part, parts[part])
        try:
            yield
        finally:
            for part in parts:
                setattr(toolkit, part, original[part])


def settings_of(controls: str) -> list[str]:
    """Parse controls such as ``uniform,random`` into settings; the model's own comes first.

    Raises:
        ValueError: A control is unknown.
    """
    names = [] if controls in ("", "none") else [name.strip() for name in controls.split(",")]
    for name in names:
        if name not in CONTROLS:
            raise ValueError(
                f"expected --controls to be none or some of {', '.join(CONTROLS)}, got {name!r}"
            )
    return [MODEL, *dict.fromkeys(names)]


def unanswered(
    cases: Sequence[NiahCase], settings: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> list[tuple[NiahCase, str]]:
    """Return the remaining pairs of case and setting, with the model's own setting first."""
    done = {(record["case"], record["setting"]) for record in records}
    return [
        (case, setting) for case in cases for setting in settings if (case.id, setting) not in done
    ]
