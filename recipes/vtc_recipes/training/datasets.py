"""Readers of the data sets that ViLAMP was trained on (Appendix A.3), in their published formats.

Captions become answers to one fixed question, and multiple-choice options become lettered lines;
the paper does not give its prompts. If a data set refers to a part of a video, the whole file is
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from vtc_recipes.schema import Items, Row
from vtc_recipes.training.rows import ConversationRow, LlavaRow, MessagesRow, Turn

CAPTION = "Describe the video."
_YOUTUBE = re.compile(r"(?:v=|youtu\.be/|/shorts/|/embed/)([\w-]{11})")


def _dialogue(pairs: Iterable[tuple[str, str]]) -> list[Turn]:
    return [
        turn
        for question, answer in pairs
        for turn in (Turn("user", question), Turn("assistant", answer))
    ]


def _choice(question: str, options: Sequence[str], right: int) -> tuple[str, str]:
    """Return a question with lettered options, and the answer."""
    if not 0 <= right < len(options):
        raise ValueError(f"expected the answer to be one of {len(options)} options, got {right}")
    lines = [f"{chr(ord('A') + number)}. {option}" for number, option in enumerate(options)]
    return "\n".join([question, *lines]), lines[right]


class WebVid(ConversationRow):
    """``videoid,contentUrl,duration,page_dir,name``; videos ``PAGE_DIR/VIDEOID.mp4``."""

    videoid: str
    page_dir: str
    name: str

    @property
    def file(self) -> str:
        return f"{self.page_dir}/{self.videoid}.mp4"

    def turns(self) -> list[Turn]:
        return _dialogue([(CAPTION, self.name)])


class InternVid(ConversationRow):
    """``{"YoutubeID", "Start_timestamp", "End_timestamp", "Caption"}``, and the cut clips.

    Clips have no published names; ``ID_START_END.mp4`` is expected.
    """

    video: str = Field(alias="YoutubeID")
    start: str = Field(alias="Start_timestamp")
    end: str = Field(alias="End_timestamp")
    caption: str = Field(alias="Caption")

    @property
    def file(self) -> str:
        return f"{self.video}_{self.start}_{self.end}.mp4"

    def turns(self) -> list[Turn]:
        return _dialogue([(CAPTION, self.caption)])


class OpenVid(ConversationRow):
    """``video,caption,...``; videos by name."""

    video: str
    caption: str

    @property
    def file(self) -> str:
        return self.video

    def turns(self) -> list[Turn]:
        return _dialogue([(CAPTION, self.caption)])


class _VriptCaption(Row):
    content: str


class Vript(ConversationRow):
    """A folder of ``ID_caption.json``; clips ``ID/ID-Scene-001.mp4``."""

    video_id: str
    clip_id: str
    caption: _VriptCaption

    @classmethod
    def split(cls, entry: Any) -> Iterable[Any]:
        clips = entry.get("data") if isinstance(entry, Mapping) else None
        return clips.values() if isinstance(clips, Mapping) else [entry]

    @property
    def file(self) -> str:
        return f"{self.video_id}/{self.clip_id}.mp4"

    def turns(self) -> list[Turn]:
        return _dialogue([(CAPTION, self.caption.content)])


class _ShortPair(Row):
    i: str = ""
    q: str
    a: str


class VideoChat2(ConversationRow):
    """``{"video": FILE, "QA": [{"i": INSTRUCTION, "q": QUESTION, "a": ANSWER}, ...]}``."""

    video: str
    pairs: Items[_ShortPair] = Field(alias="QA")

    @property
    def file(self) -> str:
        return self.video

    def turns(self) -> list[Turn]:
        return _dialogue((f"{pair.i}\n{pair.q}".strip(), pair.a) for pair in self.pairs)


class EgoTaskQA(ConversationRow):
    """``formatted_train_qas_encode.json``; clips ``INTERVAL.mp4``."""

    interval: str
    question: str
    answer: str

    @property
    def file(self) -> str:
        return f"{self.interval}.mp4"

    def turns(self) -> list[Turn]:
        return _dialogue([(self.question, self.answer)])


class _ClevrerChoice(Row):
    choice: str
    answer: str = ""


class _ClevrerQuestion(Row):
    question: str
    answer: str | None = None
    choices: Items[_ClevrerChoice] = ()


class Clevrer(ConversationRow):
    """``train.json``; videos ``video_00000-01000/video_00000.mp4``.

    The answer to a question with choices is the list of all right choices.
    """

    video_filename: str
    questions: Items[_ClevrerQuestion]

    @property
    def file(self) -> str:
        match = re.fullmatch(r"video_(\d{5})\.mp4", self.video_filename)
        if match is None:
            raise ValueError(f"expected video_00000.mp4, got {self.video_filename!r}")
        first = int(match.group(1)) // 1000 * 1000
        return f"video_{first:05}-{first + 1000:05}/{self.video_filename}"

    def turns(self) -> list[Turn]:
        return _dialogue(self._pair(question) for question in self.questions)

    def _pair(self, row: _ClevrerQuestion) -> tuple[str, str]:
        if not row.choices:
            return row.question, row.answer or ""
        lines = [f"{chr(ord('A') + n)}. {choice.choice}" for n, choice in enumerate(row.choices)]
        pairs = zip(lines, row.choices, strict=True)
        right = [line for line, choice in pairs if choice.answer == "correct"]
        return "\n".join([row.question, *lines]), "\n".join(right) or "None of them."


class _LongPair(Row):
    question: str
    answer: str


class MovieChat(ConversationRow):
    """A folder of ``NAME.json`` with ``caption`` and ``global``; videos ``NAME.mp4``."""

    file_stem: str
    caption: str
    pairs: Items[_LongPair] = Field(default=(), alias="global")

    @property
    def file(self) -> str:
        return f"{self.file_stem}.mp4"

    def turns(self) -> list[Turn]:
        pairs = [(pair.question, pair.answer) for pair in self.pairs]
        return _dialogue([(CAPTION, self.caption), *pairs])


class _OptionQuestion(Row):
    question: str
    options: Items[str]
    answer_id: int


class PerceptionTest(ConversationRow):
    """``{VIDEO: {"mc_question": [{"question", "options", "answer_id"}, ...]}}``; ``VIDEO.mp4``."""

    whole_file = True
    video: str
    mc_question: Items[_OptionQuestion]

    @classmethod
    def split(cls, entry: Any) -> Iterable[Any]:
        if not isinstance(entry, Mapping):
            return [entry]
        videos = {k: v for k, v in entry.items() if isinstance(v, Mapping)}
        return [{"video": name, **row} for name, row in videos.items() if row.get("mc_question")]

    @property
    def file(self) -> str:
        return f"{self.video}.mp4"

    def turns(self) -> list[Turn]:
        return _dialogue(_choice(q.question, q.options, q.answer_id) for q in self.mc_question)


class _Step(Row):
    heading: str


class HiRest(ConversationRow):
    """``{QUERY: {VIDEO: {"relevant", "clip", "v_duration", "bounds", "steps"}, ...}}``.

    The answers are the query and, where a video has them, the headings of its steps.
    """

    whole_file = True
    video: str
    query_text: str
    steps: Items[_Step] = ()

    @classmethod
    def split(cls, entry: Any) -> Iterable[Any]:
        if not isinstance(entry, Mapping):
            return [entry]
        pairs = ((text, videos) for text, videos in entry.items() if isinstance(videos, Mapping))
        return [
            {"video": name, "query_text": text, "steps": row.get("steps") or []}
            for text, videos in pairs
            for name, row in videos.items()
            if isinstance(row, Mapping) and row.get("relevant")
        ]

    @property
    def file(self) -> str:
        return self.video

    def turns(self) -> list[Turn]:
        pairs = [("What does the video show how to do?", self.query_text)]
        if self.steps:
            lines = [f"{n}. {step.heading.strip()}" for n, step in enumerate(self.steps, 1)]
            pairs.append(("List its steps.", "\n".join(lines)))
        return _dialogue(pairs)


class _StarChoice(Row):
    choice: str


class Star(ConversationRow):
    """``STAR_train.json``; videos of Charades, ``VIDEO_ID.mp4``."""

    video_id: str
    question: str
    answer: str
    choices: Items[_StarChoice]

    @property
    def file(self) -> str:
        return f"{self.video_id}.mp4"

    def turns(self) -> list[Turn]:
        options = [choice.choice for choice in self.choices]
        if self.answer not in options:
            raise ValueError(f"expected the answer to be one of the choices, got {self.answer!r}")
        return _dialogue([_choice(self.question, options, options.index(self.answer))])


class NextQA(ConversationRow):
    """``train.csv`` of the multiple-choice task: ``video,...,question,answer,...,a0,...,a4``."""

    video: str
    question: str
    answer: str
    a0: str
    a1: str
    a2: str
    a3: str
    a4: str

    @property
    def file(self) -> str:
        return f"{self.video}.mp4"

    def turns(self) -> list[Turn]:
        if not self.answer.isdecimal():
            raise ValueError(f"expected the answer to be a number, got {self.answer!r}")
        options = [self.a0, self.a1, self.a2, self.a3, self.a4]
        question = self.question.strip().removesuffix("?") + "?"
        return _dialogue([_choice(question, options, int(self.answer))])


class _FineContent(Row):
    pairs: Items[_LongPair] = Field(alias="qAndA")


class FineVideo(ConversationRow):
    """A folder of ``NAME.json`` with ``content_metadata``; videos ``NAME.mp4``.

    The data set is parquet that contains the videos' bytes; write both to files first.
    """

    file_stem: str
    content: _FineContent = Field(alias="content_metadata")

    @property
    def file(self) -> str:
        return f"{self.file_stem}.mp4"

    def turns(self) -> list[Turn]:
        return _dialogue((pair.question, pair.answer) for pair in self.content.pairs)


class CinePile(ConversationRow):
    """The rows of the parquet files; videos ``YOUTUBE_ID.mp4``. Subtitles are not used."""

    link: str = Field(alias="yt_clip_link")
    question: str
    choices: Items[str]
    position: int = Field(alias="answer_key_position")

    @property
    def file(self) -> str:
        match = _YOUTUBE.search(self.link)
        if match is None:
            raise ValueError(f"expected yt_clip_link to be a YouTube URL, got {self.link!r}")
        return f"{match.group(1)}.mp4"

    def turns(self) -> list[Turn]:
        return _dialogue([_choice(self.question, self.choices, self.position)])


ROWS: dict[str, type[ConversationRow]] = {
    "llava_json": LlavaRow,
    "messages": MessagesRow,
    "webvid": WebVid,
    "internvid": InternVid,
    "openvid": OpenVid,
    "vript": Vript,
    "videochat2_it": VideoChat2,
    "egotaskqa": EgoTaskQA,
    "clevrer": Clevrer,
    "moviechat": MovieChat,
    "perception_test": PerceptionTest,
    "hirest": HiRest,
    "star": Star,
    "nextqa": NextQA,
    "finevideo": FineVideo,
    "cinepile": CinePile,
}
"""The row class of each format."""
