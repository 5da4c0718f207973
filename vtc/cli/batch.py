"""``vtc batch``: answer a file of questions about many videos into a file of results."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vtc.cli import options
from vtc.cli.models import ModelOptions, part_choice
from vtc.cli.output import print_json, print_line
from vtc.cli.row_progress import row_progress

if TYPE_CHECKING:
    from vtc.batch.answering import Job
    from vtc.batch.running import Run, Summary

DEFAULT = "ask"
Lines = Generator[list[Any], None, None]
Engine = Callable[..., Lines]
"""Called with groups and a job, yields the lines of each group."""


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

AtOnce = Annotated[
    int,
    typer.Option(
        min=1,
        help="Questions about one video that share a pass over it; memory grows with the number.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Rows, results, and the processes that answer."""

    rows: Annotated[
        Path,
        typer.Argument(
            metavar="ROWS",
            help='One JSON object per line: {"id": ..., "video": ..., "question": ...}.',
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            metavar="RESULTS",
            help="The file of results, one line per row; rows with a line are skipped.",
        ),
    ]
    video_root: Annotated[
        Path, typer.Option(help="The folder that the names of videos are relative to.")
    ] = Path(".")
    workers: Annotated[
        options.Count,
        typer.Option(
            min=1,
            help="Answer in this many processes, each with its own model. (default: in this one)",
        ),
    ] = None
    ray: options.Ray = None
    ray_cpus: options.RayCpus = 1.0
    ray_gpus: options.RayGpus = None
    shard: Annotated[
        options.Text,
        typer.Option(metavar="I/N", help="Take the i-th of n parts of the rows, such as 2/8."),
    ] = None
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Retry the rows whose line holds an error.")
    ] = False
    all_frames: Annotated[
        bool,
        typer.Option("--all-frames", help="Write the times and relevance of all frames too."),
    ] = False

    def engine(self) -> Engine:
        """Return the function that answers groups: in this process, in workers, or in Ray tasks.

        Raises:
            ValueError: Both ``--workers`` and ``--ray`` are given.
        """
        if self.workers is not None and self.ray is not None:
            raise ValueError("expected --workers or --ray, got both")
        if self.ray is not None:
            from vtc.batch.cluster import Resources, answer_on_cluster

            resources = Resources(self.ray_cpus, self.ray_gpus)
            return partial(answer_on_cluster, address=self.ray, resources=resources)
        if self.workers is not None:
            from vtc.batch.workers import answer_in_workers

            return partial(answer_in_workers, count=self.workers)
        from vtc.batch.running import answer_here

        return answer_here


@app.command()
@options.grouped
def ask(
    batch: BatchOptions,
    model_options: ModelOptions,
    frames: options.ModelFrameOptions,
    answering: options.AnswerOptions,
    questions_at_once: AtOnce = 4,
    as_json: options.AsJson = False,
) -> None:
    """Answer questions about many videos; run it again to resume. See also vtc batch select.

    A line of the results holds id, video, question, answer, error and report. A video that cannot
    be read is an error in its lines.
    """
    from vtc.batch.answering import AskJob

    frames.require_cache()
    generation = answering.arguments()
    job = AskJob(
        root=batch.video_root,
        video=asdict(frames),
        all_frames=batch.all_frames,
        open_model=partial(model_options.open, quiet=True),
        generation=generation,
    )
    settings = {"command": "batch ask", **asdict(model_options), **asdict(frames), **generation}
    _run(batch, job, settings, questions_at_once, as_json)


@app.command()
@options.grouped
def select(
    batch: BatchOptions,
    frames: options.FrameOptions,
    selector: options.Selector = None,
    keyframes: options.Keyframes = None,
    encoder: Annotated[
        str, typer.Option(help="The frame encoder, unless the selector names one.")
    ] = "open_clip:ViT-B-32/openai",
    selector_option: options.SelectorOption = [],  # noqa: B006 - typer copies it
    device: options.Device = "auto",
    questions_at_once: AtOnce = 64,
    as_json: options.AsJson = False,
) -> None:
    """Find the keyframes for questions about many videos, without a language model.

    A line of the results holds id, video, question, keyframes (index, timestamp, relevance), error
    and report.
    """
    from vtc.batch.answering import SelectJob

    spec = part_choice("dks", selector, selector_option, keyframes).spec()
    job = SelectJob(
        root=batch.video_root,
        video=asdict(frames),
        all_frames=batch.all_frames,
        selector=spec,
        encoder=encoder,
        device=device,
    )
    settings = {"command": "batch select", "selector": spec, "encoder": encoder, **asdict(frames)}
    _run(batch, job, settings, questions_at_once, as_json)


_WITHOUT_EFFECT = ("cache", "cache_tower", "device", "device_map", "trust_remote_code")
"""Options that do not affect the answers."""


def _run(
    batch: BatchOptions, job: Job, settings: Mapping[str, Any], at_once: int, as_json: bool
) -> None:
    from vtc.batch.answering import check_videos
    from vtc.batch.results import open_results
    from vtc.batch.rows import Shard, group_rows, read_rows
    from vtc.batch.running import Run

    engine = batch.engine()
    shard = None if batch.shard is None else Shard.read(batch.shard)
    if batch.out.resolve() == batch.rows.resolve():
        raise ValueError(f"expected --out to be another file than the rows, got {batch.out} twice")
    rows = read_rows(batch.rows)
    code = 0
    with open_results(batch.out) as results:
        results.check_rows(rows)
        results.check_settings({k: v for k, v in settings.items() if k not in _WITHOUT_EFFECT})
        if batch.retry_errors:
            results.remove_errors()
        run = Run(rows if shard is None else shard.rows(rows), results)
        groups = group_rows(run.missing, at_once)
        if groups:
            check_videos(groups, job.root)
            code = _write(run, partial(engine, groups, job), as_json)
    _print_summary(run.summary(), code, as_json)
    if code:
        raise typer.Exit(code)


def _write(run: Run, answered: Callable[[], Lines], quiet: bool) -> int:
    """Write all lines, or stop when the user ends the command; return the exit code."""
    with _sigterm_like_ctrl_c() as signals, row_progress(len(run.rows), quiet) as show:
        try:
            with closing(answered()) as lines:  # closing ends the workers
                run.write(lines, show)
        except KeyboardInterrupt:
            return 128 + (signals or [signal.SIGINT])[0]
    return 0


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[list[int]]:
    """Handle SIGTERM, which Slurm and others send, like Ctrl-C; yield the received signals."""
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_summary(summary: Summary, code: int, as_json: bool) -> None:
    if as_json:
        print_json(asdict(summary))
        return
    errors = f", {summary.errors} with an error (retry them with --retry-errors)"
    print_line(
        f"{summary.answered + summary.errors} of {summary.rows} rows are in {summary.out}"
        + (errors if summary.errors else "")
    )
    if code:
        print_line(f"ended with {summary.missing} rows missing; run the same command to resume")
