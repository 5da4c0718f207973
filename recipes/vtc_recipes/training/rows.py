"""Rows of conversation files: the formats ``llava_json`` and ``messages``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from vtc_recipes.schema import Items, Row

_PLACEHOLDER = re.compile(r"\s*<(?:video|image)>\s*")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; ``role`` is ``"user"`` or ``"assistant"``."""

    role: str
    text: str


class ConversationRow(Row):
    """Base class for the rows of a format: a video and a conversation about it.

    Attributes:
        query: The query for selecting keyframes; None for the last question.
        whole_file: Whether a JSON file is one entry, not a list of them.
    """

    whole_file: ClassVar[bool] = False
    query: str | None = None

    @classmethod
    def split(cls, entry: Any) -> Iterable[Any]:
        """Return the rows in an entry of a file; by default an entry is one row."""
        return [entry]

    @property
    def file(self) -> str | None:
        """The video, relative to the folder of videos; None for text only."""
        raise NotImplementedError

    def turns(self) -> list[Turn]:
        """Return alternating questions and answers."""
        raise NotImplementedError


class _LlavaTurn(Row):
    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: str


class LlavaRow(ConversationRow):
    """``{"video": "a.mp4", "conversations": [{"from": "human", "value": "<video> Why?"}, ...]}``"""

    conversations: Items[_LlavaTurn]
    video: str | None = None
    image: str | None = None

    @property
    def file(self) -> str | None:
        return self.image if self.video is None else self.video

    def turns(self) -> list[Turn]:
        roles = {"human": "user", "gpt": "assistant"}
        turns = [Turn(roles[turn.speaker], turn.value) for turn in self.conversations]
        marks = [len(_PLACEHOLDER.findall(turn.text)) for turn in turns]
        if sum(marks) > 1 or any(marks[1:]):
            raise ValueError("expected at most one <video>, in the first turn")
        if sum(marks) and self.file is None:
            raise ValueError("the text has a <video>, but the sample names no video")
        if turns and marks[0]:
            turns[0] = Turn(turns[0].role, _PLACEHOLDER.sub(" ", turns[0].text).strip())
        return turns


class _Content(Row):
    type: Literal["video", "image", "text"]
    text: str | None = None
    video: str | None = None
    image: str | None = None
    path: str | None = None


class _Message(Row):
    role: Literal["user", "assistant"]
    content: Annotated[
        Items[_Content],
        BeforeValidator(lambda v: [{"type": "text", "text": v}] if isinstance(v, str) else v),
    ]

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content if part.text is not None)


class MessagesRow(ConversationRow):
    """``{"messages": [{"role": "user", "content": [{"type": "video", "video": FILE}]}, ...]}``"""

    messages: Items[_Message]

    @property
    def file(self) -> str | None:
        first = self.messages[0].content[:1] if self.messages else ()
        for part in first:
            if part.type != "text":
                return getattr(part, part.type) or part.path
        return None

    def turns(self) -> list[Turn]:
        for number, message in enumerate(self.messages):
            for place, part in enumerate(message.content):
                where = f"messages.{number}.content.{place}"
                if part.type == "text" and part.text is None:
                    raise ValueError(f"{where}.text is missing")
                if part.type != "text" and (number or place):
                    raise ValueError(
                        f"{where}: expected one {part.type}, before the text of the first message"
                    )
                if part.type != "text" and self.file is None:
                    raise ValueError(f"{where}.{part.type} is missing")
        return [Turn(message.role, message.text) for message in self.messages]
