"""What commands write: text without control characters, and JSON results alone on stdout."""

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
"""The results to print when the command has ended; None where they are printed at once."""


class _Console(Console):
    """Escapes the control characters in what it prints, such as those of file names."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            is_text = segment.control is None
            yield Segment(printable(segment.text), segment.style) if is_text else segment


def terminal(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console for text that may hold names of files and parts."""
    return _Console(highlight=False, stderr=stderr, quiet=quiet)


def printable(text: str) -> str:
    r"""Escape control characters, which could play tricks on a terminal.

    >>> print(printable("talk\x1b[2J.mp4"))
    talk\x1b[2J.mp4
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def print_line(text: str) -> None:
    """Print text that may hold names of files and parts."""
    print(printable(text))


def print_json(value: Any) -> None:
    """Print the result of a command with ``--json``."""
    print_result(json.dumps(value, indent=2))


def print_result(text: str) -> None:
    """Print the result of a command to stdout, which holds nothing else."""
    if _pending is None:
        print(text)
    else:
        _pending.append(text)


@contextmanager
def results_only() -> Iterator[None]:
    """Keep stdout free for the result of the command; everything else goes to stderr.

    Plug-ins and libraries may print to ``sys.stdout`` or to its file descriptor. A command that
    does not call `print_json`, such as one of a plug-in, has printed its result to ``sys.stdout``.
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
    """Send what is printed from now on to stderr, such as by functions that run at exit."""
    sys.stdout.flush()
    sys.stdout = sys.stderr
    try:
        os.dup2(2, 1)
    except OSError:
        pass


def accept_any_text() -> None:
    """Escape what the encoding of stdout and stderr lacks, instead of losing the output.

    Where one of them is closed (``vtc parts >&-``), nothing is written to it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
