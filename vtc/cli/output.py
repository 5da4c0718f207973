"""Output of commands: text without control characters, and only JSON results on stdout."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

_pending: list[str] | None = None
"""The results to print when the command has ended; None if they are printed immediately."""


class _Console(Console):
    """Escapes control characters in its output, for example from file names."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            is_text = segment.control is None
            yield Segment(printable(segment.text), segment.style) if is_text else segment


def terminal(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console for text that may include names of files and parts."""
    return _Console(highlight=False, stderr=stderr, quiet=quiet)


def printable(text: str) -> str:
    r"""Escape control characters, which could manipulate a terminal.

    >>> print(printable("talk\x1b[2J.mp4"))
    talk\x1b[2J.mp4
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def print_line(text: str) -> None:
    """Print text that may include names of files and parts."""
    print(printable(text))


def print_json(value: Any) -> None:
    """Print the result of a command with ``--json``."""
    print_result(json.dumps(value, indent=2))


def print_result(text: str) -> None:
    """Print the result of a command to stdout, which gets no other output."""
    if _pending is None:
        print(text)
    else:
        _pending.append(text)


@contextmanager
def results_only() -> Iterator[None]:
    """Reserve stdout for the result of the command; redirect everything else to stderr.

    Plug-ins and libraries may print to ``sys.stdout`` or to its file descriptor. If a command does
    not call `print_json`, as one of a plug-in may, its output to ``sys.stdout`` is the result.
    """
    global _pending
    sys.stdout.flush()
    try:
        stdout = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a process without one of them
        stdout = None
    _pending, is_done = [], False
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogatepass")
    try:
        with redirect_stdout(printed):
            yield
        is_done = True
    finally:
        results, _pending = _pending, None
        if stdout is not None:
            os.dup2(stdout, 1)
            os.close(stdout)
        printed.seek(0)
        is_result = is_done and not results
        print(printed.read(), end="", file=sys.stdout if is_result else sys.stderr, flush=True)
        for text in results:
            print(text, flush=True)


def close_stdout() -> None:
    """Redirect further output to stderr, such as that of functions that run at exit."""
    sys.stdout.flush()
    sys.stdout = sys.stderr
    try:
        os.dup2(2, 1)
    except OSError:
        pass


def accept_any_text() -> None:
    """Escape characters that the encoding of stdout and stderr lacks, instead of raising.

    A closed stream (``vtc parts >&-``) is replaced by the null device.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
