"""Errors in the form of the OpenAI protocol."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request was refused, or its answer failed.

    Args:
        status: The HTTP status.
        message: One line that says what to do.
        param: The faulty field of the request.
        code: The error as a word for programs.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.param = None if param is None else _printable(param, 200)
        self.message = _printable(" ".join(message.split()), 2000)

    def body(self) -> dict[str, Any]:
        """Return the protocol's JSON object for errors."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        fields = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}


def _printable(text: str, most: int) -> str:
    """Truncate a client's text, and escape its lone surrogates."""
    text = text if len(text) <= most else f"{text[:most]}..."
    return text.encode("utf-8", "backslashreplace").decode()


_KINDS = {401: "authentication_error", 429: "rate_limit_error"}
