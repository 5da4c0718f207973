"""The schema of requests: the supported part of OpenAI's chat completions."""

from __future__ import annotations

import json
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vtc.serve.errors import ApiError

MOST_MESSAGES, MOST_PARTS = 256, 256


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Text(_Fields):
    """``{"type": "text", "text": ...}``."""

    type: Literal["text"]
    text: str


class Address(_Fields):
    """``{"url": ...}``."""

    url: str
    detail: Literal["auto"] = "auto"


class Image(_Fields):
    """``{"type": "image_url", "image_url": {"url": ...}}``."""

    type: Literal["image_url"]
    image_url: Address


class Video(_Fields):
    """``{"type": "video_url", "video_url": {"url": ...}}``."""

    type: Literal["video_url"]
    video_url: Address


Part = Annotated[Text | Image | Video, Field(discriminator="type")]


class _Message(_Fields):
    @field_validator("content", mode="before", check_fields=False)
    @classmethod
    def _as_parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class UserMessage(_Message):
    """A message of the user: text, images and videos."""

    role: Literal["user"]
    content: list[Part] = Field(min_length=1, max_length=MOST_PARTS)


class OtherMessage(_Message):
    """Instructions, or an earlier answer."""

    role: Literal["system", "developer", "assistant"]
    content: list[Text] = Field(min_length=1, max_length=MOST_PARTS)


Message = Annotated[UserMessage | OtherMessage, Field(discriminator="role")]


class StreamOptions(_Fields):
    """``{"include_usage": true}``."""

    include_usage: bool = False


class Reading(_Fields):
    """Options for reading the videos of a request: the field ``vtc``.

    Attributes:
        fps: Frames to read per second.
        max_frames: The maximum number of frames; if ``fps`` gives more, this many are spread
            evenly.
        query: The query for the selector, in place of the last user message.
        report: ``"full"`` to include the times and scores of every frame.
    """

    fps: float | None = Field(default=None, gt=0)
    max_frames: int | None = Field(default=None, ge=1)
    query: str | None = Field(default=None, min_length=1)
    report: Literal["short", "full"] = "short"


class ChatRequest(_Fields):
    """The body of ``POST /v1/chat/completions``; null means the same as no field."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=4)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    vtc: Reading = Reading()
    user: str | None = None
    # Fields that clients send with their neutral value.
    n: Literal[1] = 1
    frequency_penalty: float = Field(default=0, ge=0, le=0)
    presence_penalty: float = Field(default=0, ge=0, le=0)
    logprobs: Literal[False] = False
    store: Literal[False] = False
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role != "user":
            raise ValueError("expected the last message to be the user's")
        return messages


def read_request(body: IO[bytes]) -> ChatRequest:
    """Read and check the body of a request.

    Raises:
        ApiError: It is not JSON, or a field is unknown or has a wrong value.
    """
    try:
        value = json.load(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deeply") from error
    except ValueError as error:  # also from invalid UTF-8 or numbers
        raise ApiError(400, f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"expected the body to be an object, got {type(value).__name__}")
    value = _without_nulls(value)
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _in_words(error, value) from error
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(
            400, "give either max_tokens or max_completion_tokens", param="max_completion_tokens"
        )
    return request


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _in_words(error: ValidationError, body: Any) -> ApiError:
    """Return an error that names the first faulty field and the expected value."""
    first = error.errors(include_url=False)[0]
    path, at = "", body
    for step in first["loc"]:
        if isinstance(step, int) and isinstance(at, list):
            path, at = f"{path}[{step}]", at[step] if step < len(at) else None
        elif isinstance(at, dict) and (step in at or step == first["loc"][-1]):
            path, at = f"{path}.{step}".lstrip("."), at.get(step)
    path = path if len(path) <= 100 else f"{path[:100]}..."
    problem = first["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if first["type"] == "extra_forbidden":
        problem = "this server does not know this field; leave it out"
    elif first["type"] == "missing":
        problem = "is missing"
    elif first["type"] == "literal_error":
        problem = f"expected {first['ctx']['expected']}, got {_brief(at)}"
    return ApiError(
        400, f"{path or 'body'}: {problem}", param=path.partition("[")[0].partition(".")[0]
    )


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
