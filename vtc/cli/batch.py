"""``vtc batch``: many questions about many videos, from a file of rows into one of results."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vtc.cli import options
from vtc.cli.models import load_model, part_choice, read_options
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
    options.Count,
    typer.Option(
        min=1, help="Answer in this many processes, each with its own model. (default: in this one)"
    ),
]
Ray = Annotated[
    options.Text,
    typer.Option(
        metavar="ADDRESS", help="Answer in tasks of Ray: local, auto, or a cluster's address."
    ),
]
RayCpus = Annotated[float, typer.Option(min=0, help="Processors of a task of Ray.")]
RayGpus = Annotated[
    options.Number,
    typer.Option(min=0, help="GPUs of a task of Ray. (default: 1 where the cluster has any)"),
]
ShardOption = Annotated[
    options.Text,
    typer.Option("--shard", metavar="I/N", help="Take the i-th of n parts of the rows: 2/8."),
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
    ray: Ray = None,
    ray_cpus: RayCpus = 1.0,
    ray_gpus: RayGpus = None,
    shard: ShardOption = None,
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
    engine = _engine(workers, ray, ray_cpus, ray_gpus)
    _run(rows, out, job, settings, questions_at_once, engine, shard, retry_errors, as_json)


@app.command()
def select(
    rows: Rows,
    out: Out,
    workers: Workers = None,
    ray: Ray = None,
    ray_cpus: RayCpus = 1.0,
    ray_gpus: RayGpus = None,
    shard: ShardOption = None,
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
    engine = _engine(workers, ray, ray_cpus, ray_gpus)
    _run(rows, out, job, settings, questions_at_once, engine, shard, retry_errors, as_json)


def _engine(
    workers: int | None, ray: str | None, ray_cpus: float, ray_gpus: float | None
) -> Engine:
    """Return what answers groups with a job: this process, workers, or tasks of Ray."""
    if workers is not None and ray is not None:
        raise ValueError(f"expected --workers or --ray, got both: {workers} and {ray}")
    if ray is not None:
        from vtc.batch.cluster import Resources, answer_on_cluster

        resources = Resources(ray_cpus, ray_gpus)
        return partial(answer_on_cluster, address=ray, resources=resources)
    if workers is not None:
        from vtc.batch.workers import answer_in_workers

        return partial(answer_in_workers, count=workers)
    from vtc.batch.running import answer_here

    return answer_here


def _run(
    rows_file: Path,
    out: Path,
    job: Job,
    settings: Mapping[str, Any],
    at_once: int,
    engine: Engine,
    shard: str | None,
    retry_errors: bool,
    as_json: bool,
) -> None:
    from vtc.batch.answering import check_videos
    from vtc.batch.results import open_results
    from vtc.batch.rows import Shard, group_rows, read_rows
    from vtc.batch.running import Run

    if out.resolve() == rows_file.resolve():
        raise ValueError(f"expected --out to be another file than the rows, got {out} for both")
    part = None if shard is None else Shard.read(shard)
    rows = read_rows(rows_file)
    code = 0
    with open_results(out) as results:
        results.check_rows(rows)
        results.check_settings(settings)
        if retry_errors:
            results.remove_errors()
        run = Run(rows if part is None else part.rows(rows), results)
        groups = group_rows(run.missing, at_once)
        if groups:
            check_videos(groups, job.root)
            code = _write(run, partial(engine, groups, job), as_json)
    _print_summary(run.summary(), code, as_json)
    if code:
        raise typer.Exit(code)


def _write(run: Run, answered: Callable[[], Lines], quiet: bool) -> int:
    """Write the lines until all are there or the user ends the command; return the exit code."""
    with _ended_like_ctrl_c() as signals, row_progress(len(run.rows), quiet) as show:
        try:
            with closing(answered()) as lines:  # which ends the workers
                run.write(lines, show)
        except KeyboardInterrupt:
            return 128 + (signals or [signal.SIGINT])[0]
    return 0


@contextmanager
def _ended_like_ctrl_c() -> Iterator[list[int]]:
    """End on SIGTERM as on Ctrl-C, since Slurm and others end jobs by it; yield its number."""
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
    errors = f", {summary.errors} with an error (--retry-errors asks them again)"
    print_line(
        f"{summary.answered + summary.errors} of {summary.rows} rows are in {summary.out}"
        + (errors if summary.errors else "")
    )
    if code:
        print_line(f"ended with {summary.missing} rows missing; run the same command to resume")
