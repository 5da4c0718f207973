"""The progress of a batch: rows, rows per minute, and the estimated end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from vtc.cli.output import terminal

LOG_SECONDS = 60.0
"""The time between two lines of progress if stderr is a file."""
_WINDOW_SECONDS = 600.0


class _Pace(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(pace(task.speed, task.remaining or 0, datetime.now()))


def pace(speed: float | None, remaining: float, now: datetime) -> str:
    """Return the rows per minute and the estimated end as text.

    >>> pace(0.5, 3600, datetime(2026, 11, 29, 22, 30))
    '30 rows/min, ends about 30 Nov 00:30'
    """
    if not speed:
        return ""
    end = now + timedelta(seconds=remaining / speed)
    day = "" if end.date() == now.date() else f"{end:%d %b} "
    return f"{speed * 60:.3g} rows/min, ends about {day}{end:%H:%M}"


@contextmanager
def row_progress(total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show progress on the error stream: a bar on a terminal, one line per minute in a file.

    Yields:
        A function to call with the number of finished rows.
    """
    console = terminal(stderr=True, quiet=quiet)
    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), _Pace())
    settings: dict[str, Any] = {
        "console": console,
        "transient": True,
        "disable": quiet or not console.is_terminal,
        "speed_estimate_period": _WINDOW_SECONDS,
    }
    with Progress(*columns, **settings) as bars:
        log = _Log(console, total)
        row_task = None

        def show(done: int) -> None:
            nonlocal row_task
            if row_task is None:
                row_task = bars.add_task("rows", total=total, completed=done)
            bars.update(row_task, completed=done)
            if not console.is_terminal:
                log.show(done)

        yield show


class _Log:
    """Writes a line of progress every `LOG_SECONDS`."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def show(self, done: int) -> None:
        now = monotonic()
        if self._first is None:
            self._first, self._last = (now, done), now
        if now - self._last < LOG_SECONDS:
            return
        self._last = now
        began, before = self._first
        speed = (done - before) / (now - began)
        text = pace(speed, self._total - done, datetime.now())
        self._console.print(f"{done} of {self._total} rows, {text}", markup=False)
