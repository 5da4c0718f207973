"""Output that commands share: progress bars, and the facts of a report."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vtc.cli.output import terminal

if TYPE_CHECKING:
    from vtc.pipeline.report import Keyframe, Report
    from vtc.wrapped.asking import Answer


@contextmanager
def progress_bars(quiet: bool = False, window: float = 30.0) -> Iterator[Any]:
    """Show a bar per stage on the error stream; yield a function for ``toolkit.progress``.

    Args:
        quiet: Show nothing.
        window: The seconds over which the remaining time is estimated.
    """
    console = terminal(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("remaining"),
    )
    options: Any = {"console": console, "transient": True, "disable": quiet}
    with Progress(*columns, speed_estimate_period=window, **options) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def loading_bars(quiet: bool = False) -> Iterator[None]:
    """Show transformers' loading progress, such as that of weights, on the error stream.

    Downloads use the bars of huggingface_hub.

    Args:
        quiet: Show nothing.
    """
    from tqdm.std import tqdm  # type: ignore[import-untyped]
    from transformers.utils import logging

    if quiet:
        logging.disable_progress_bar()
        yield
        return
    with ExitStack() as stack:  # start at the first bar, as downloads write to the same lines

        @functools.cache
        def start() -> Any:
            return stack.enter_context(progress_bars())

        class Bar(tqdm):  # type: ignore[misc]
            def display(self, msg: str | None = None, pos: int | None = None) -> None:
                if self.total:
                    start()(self.desc.removesuffix(": ").lower(), self.n, self.total)

        def make(factory: Any, args: Any, kwargs: Any) -> Any:
            return Bar(*args, **{**kwargs, "file": io.StringIO(), "leave": False})

        previous = logging.set_tqdm_hook(make)
        try:
            yield
        finally:
            logging.set_tqdm_hook(previous)
            logging.disable_progress_bar()  # others would break the bars that follow


def facts(report: Report, source: Any, seconds: str = "") -> Table:
    """Return a short table of the call's report; ``seconds`` is appended to its stages' times."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    before, after = report.tokens_before, report.tokens_after
    info = source.info
    table.add_row(
        "video",
        f"{escape(source.name)}: {clock(info.duration)} at {info.native_fps:.4g} frames/s, "
        f"{info.width}x{info.height}",
    )
    table.add_row("frames", f"{report.frames} read, {len(report.keyframes)} keyframes")
    table.add_row("keyframes", keyframe_line(report.keyframes))
    [video] = report.videos
    if video.uncovered is not None:
        share = f"{video.uncovered:.0%} of the video"
        table.add_row("far", f"{share} is more than {video.near:.0f} s from every keyframe")
    table.add_row("tokens", f"{before} -> {after} ({before / max(after, 1):.1f} times fewer)")
    if report.text_before:
        table.add_row("text", f"{report.text_before} -> {report.text_after} tokens around frames")
    table.add_row(
        "parts",
        escape(f"selector {part_line(report.selector)}; merger {part_line(report.merger)}"),
    )
    done = {name: stage for name, stage in report.stages.items() if stage.seconds}
    table.add_row(
        "seconds",
        ", ".join(
            [*(f"{name} {stage.seconds:.2f}" for name, stage in done.items()), seconds]
        ).removesuffix(", "),
    )
    for line in report.budget_lines:
        table.add_row("budget", escape(line.replace("budget ", "", 1)))
    if report.decoding_line:
        table.add_row("decoding", report.decoding_line)
    for line in report.cache_lines:
        table.add_row("cache", escape(line))
    if peak_memory():
        table.add_row("memory", f"{peak_memory() / 2**20:.0f} MiB at most")
    for warning in report.warnings:
        table.add_row("[yellow]note[/]", escape(warning))
    return table


def ask_result(video: str, questions: list[str], answers: list[Answer]) -> dict[str, Any]:
    """Return the result for ``--json``; several answers are a list under ``answers``."""
    rows = [
        {"question": question, "answer": answer.text, "report": answer.report.to_dict()}
        for question, answer in zip(questions, answers, strict=True)
    ]
    result = rows[0] if len(rows) == 1 else {"answers": rows}
    return {"video": video, **result, "peak_memory_bytes": peak_memory()}


def part_line(spec: dict[str, Any]) -> str:
    """Return a part as text: ``dks(keyframes=32, fill='none')``."""
    options = ", ".join(f"{key}={value!r}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}({options})"


def keyframe_line(keyframes: tuple[Keyframe, ...] | list[Keyframe]) -> str:
    """Return the times of the keyframes, with their relevance, as text."""
    return ", ".join(
        clock(frame.timestamp if frame.timestamp is not None else frame.index)
        + ("" if frame.relevance is None else f" ({frame.relevance:.2f})")
        for frame in keyframes
    )


def clock(seconds: float) -> str:
    """Return a time as text: ``1:15.5`` for 75.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, of the GPU if it was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return 0  # not available on Windows
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
