"""The error of videos that cannot be read."""

from __future__ import annotations


class VideoError(ValueError):
    """A video cannot be read; the message names the file and the reason in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
