"""Answers in the form of the OpenAI protocol."""

from __future__ import annotations

import json
from time import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vtc.serve.answer import short_report

if TYPE_CHECKING:
    from vtc.serve.answer import Result
    from vtc.serve.schema import ChatRequest


class Replies:
    """Builds the replies to one request, whole or in pieces."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._base = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time())}
        self._base["model"] = request.model

    def whole(self, text: str, result: Result) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"message": message, "logprobs": None, "finish_reason": result.finish_reason}
        return {
            **self._base,
            "object": "chat.completion",
            "choices": [{"index": 0, **choice}],
            "usage": _usage(result),
            **self._report(result),
        }

    def first(self) -> bytes:
        """Return the event that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """Return the event of a piece of text."""
        return self._chunk({"content": text})

    def last(self, result: Result) -> list[bytes]:
        """Return the events that end a stream."""
        events = [self._chunk({}, result.finish_reason, **self._report(result))]
        options = self._request.stream_options
        if options is not None and options.include_usage:
            events.append(self._event({"choices": [], "usage": _usage(result)}))
        return [*events, b"data: [DONE]\n\n"]

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, **fields: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._event({"choices": [choice], **fields})

    def _event(self, fields: dict[str, Any]) -> bytes:
        return event({**self._base, "object": "chat.completion.chunk", **fields})

    def _report(self, result: Result) -> dict[str, Any]:
        if result.report is None:
            return {}
        full = self._request.vtc.report == "full"
        return {"vtc": result.report.to_dict() if full else short_report(result.report)}


def event(fields: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def _usage(result: Result) -> dict[str, int]:
    read, written = result.prompt_tokens, result.completion_tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }
