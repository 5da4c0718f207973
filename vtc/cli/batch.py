"""``vtc batch``: many questions about many videos, from a file of rows into one of results."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from vtc.cli import options
from vtc.cli.models import load_model, part_choice, read_options
from vtc.cli.output import print_json, print_line
from vtc.cli.row_progress import row_progress

if TYPE_CHECKING:
    from vtc.batch.answering import Job
    from vtc.batch.running import Summary

DEFAULT = "ask"


class _AskByDefault(TyperGroup):
    """``vtc batch ROWS`` is ``vtc batch ask ROWS``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_AskByDefault,
    help="Answer a file of questions about videos; vtc batch select: find their keyframes.",
)

Rows = Annotated[
    Path,
    typer.Argument(
        metavar="ROWS",
        help='One JSON object a line: {"id": ..., "video": ..., "question": ...}.',
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        metavar="RESULTS",
        help="Takes a line for each row; rows that have one are skipped.",
    ),
]
VideoRoot = Annotated[
    Path, typer.Option(help="The folder that the names of videos are relative to.")
]
AtOnce = Annotated[
    int,
    typer.Option(
        min=1,
        help="Questions about one video that share a pass over it; each takes memory of its own.",
    ),
]
Workers = Annotated[
    Optional[int],  # noqa: UP045 - typer evaluates it, and old ones cannot read X | None
    typer.Option(
        min=1, help="Answer in this many processes, each with its own model. (default: in this one)"
    ),
]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="Ask again the rows whose line holds an error.")
]
AllFrames = Annotated[
    bool, typer.Option("--all-frames", help="Write time and relevance of all frames to each line.")
]


@app.command()
def ask(
    rows: Rows,
    out: Out,
    model: options.Model = options.DEFAULT_MODEL,
    workers: Workers = None,
    video_root: VideoRoot = Path("."),
    questions_at_once: AtOnce = 4,
    retry_errors: RetryErrors = False,
    selector: options.Selector = None,
    merger: options.Merger = None,
    keyframes: options.Keyframes = None,
    fps: options.Fps = 1.0,
    max_frames: options.MaxFrames = None,
    reader: options.VideoReader = "pyav",
    encoder: options.Encoder = None,
    selector_option: options.SelectorOption = [],  # noqa: B006 - typer copies it
    merger_option: options.MergerOption = [],  # noqa: B006
    adapter_option: options.AdapterOption = [],  # noqa: B006
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    num_beams: options.NumBeams = None,
    attn_implementation: options.AttnImplementation = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    all_frames: AllFrames = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Answer questions about many videos; run it again to resume. See also vtc batch select.

    A line of the results holds id, video, question, answer, error and report. A video that cannot
    be read is an error in its lines.
    """
    from vtc.batch.answering import AskJob

    choices = (
        part_choice("dks", selector, selector_option, keyframes),
        part_choice("dfm", merger, merger_option),
    )
    video = {"fps": fps, "max_frames": max_frames, "reader": reader}
    family = read_options(adapter_option)
    generation = options.generation_settings(temperature, top_p, num_beams)
    generation["max_new_tokens"] = max_new_tokens
    opened = (model, *choices, encoder, device, dtype, trust_remote_code, attn_implementation)
    job = AskJob(
        root=video_root,
        video=video,
        all_frames=all_frames,
        open_model=partial(load_model, *opened),
        family=family,
        generation=generation,
    )
    settings = {
        "command": "batch ask",
        "model": model,
        **{kind: asdict(one) for kind, one in zip(("selector", "merger"), choices, strict=True)},
        "encoder": encoder,
        **video,
        "adapter_options": family,
        **generation,
        "attn_implementation": attn_implementation,
        "dtype": dtype,
    }
    _run(rows, out, job, settings, questions_at_once, workers, retry_errors, as_json)


@app.command()
def select(
    rows: Rows,
    out: Out,
    workers: Workers = None,
    video_root: VideoRoot = Path("."),
    questions_at_once: AtOnce = 64,
    retry_errors: RetryErrors = False,
    selector: options.Selector = None,
    keyframes: options.Keyframes = None,
    fps: options.Fps = 1.0,
    max_frames: options.MaxFrames = None,
    reader: options.VideoReader = "pyav",
    encoder: Annotated[
        str, typer.Option(help="The frame encoder, unless the selector names its own.")
    ] = "open_clip:ViT-B-32/openai",
    selector_option: options.SelectorOption = [],  # noqa: B006
    device: options.Device = "auto",
    all_frames: AllFrames = False,
    as_json: options.AsJson = False,
) -> None:
    """Find the keyframes for questions about many videos, without a language model.

    A line of the results holds id, video, question, keyframes (index, timestamp, relevance), error
    and report.
    """
    from vtc.batch.answering import SelectJob

    spec = part_choice("dks", selector, selector_option, keyframes).spec()
    video = {"fps": fps, "max_frames": max_frames, "reader": reader}
    job = SelectJob(
        root=video_root,
        video=video,
        all_frames=all_frames,
        selector=spec,
        encoder=encoder,
        device=device,
    )
    settings = {"command": "batch select", "selector": spec, "encoder": encoder, **video}
    _run(rows, out, job, settings, questions_at_once, workers, retry_errors, as_json)


def _run(
    rows_file: Path,
    out: Path,
    job: Job,
    settings: Mapping[str, Any],
    at_once: int,
    workers: int | None,
    retry_errors: bool,
    as_json: bool,
) -> None:
    from vtc.batch.answering import check_videos
    from vtc.batch.results import open_results
    from vtc.batch.rows import group_rows, read_rows
    from vtc.batch.running import Run, answer_here

    if out.resolve() == rows_file.resolve():
        raise ValueError(f"expected --out to be another file than the rows, got {out} for both")
    rows = read_rows(rows_file)
    code = 0
    with open_results(out) as results:
        results.check_rows(rows)
        results.check_settings(settings)
        if retry_errors:
            results.remove_errors()
        run = Run(rows, results)
        groups = group_rows(run.missing, at_once)
        if groups:
            check_videos(groups, job.root)
            if workers is None:
                answered = partial(answer_here, groups, job)
            else:
                from vtc.batch.workers import answer_in_workers

                answered = partial(answer_in_workers, groups, job, workers)
            code = _write(run, answered, as_json)
    _print_summary(run.summary(), code, as_json)
    if code:
        raise typer.Exit(code)


def _write(run: Any, answered: Callable[[], Generator[list[Any], None, None]], quiet: bool) -> int:
    """Write the lines until all are there or the user ends the command; return the exit code."""
    with _ended_like_ctrl_c(), row_progress(len(run.rows), quiet) as show:
        try:
            with closing(answered()) as lines:  # which ends the workers
                run.write(lines, show)
        except KeyboardInterrupt as stop:
            return 143 if isinstance(stop, _Terminated) else 130
    return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM, by which Slurm and others end a job."""


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_summary(summary: Summary, code: int, as_json: bool) -> None:
    if as_json:
        print_json(asdict(summary))
        return
    errors = f", {summary.errors} with an error (--retry-errors asks them again)"
    print_line(
        f"{summary.answered + summary.errors} of {summary.rows} rows are in {summary.out}"
        + (errors if summary.errors else "")
    )
    if code:
        print_line(f"ended with {summary.missing} rows missing; run the same command to resume")
