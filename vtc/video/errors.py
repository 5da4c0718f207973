"""What goes wrong when a video is read."""

from __future__ import annotations


class VideoError(ValueError):
    """A video that cannot be read; one line that names the file and what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
