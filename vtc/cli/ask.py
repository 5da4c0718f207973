"""``vtc ask``: ask a model about a video file."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, terminal
from vtc.cli.show import ask_result, facts, progress_bars

if TYPE_CHECKING:
    from vtc.video import VideoSource


@options.grouped
def ask(
    video: Annotated[str, typer.Argument(help="A video file.")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION...", help="Questions about the video.")
    ],
    model_options: ModelOptions,
    frames: options.ModelFrameOptions,
    answering: options.AnswerOptions,
    page: options.Page = None,
    heat: Annotated[
        int, typer.Option(min=0, help="The number of frames on the page with merger weights.")
    ] = 4,
    stream: Annotated[
        Optional[bool],  # noqa: UP045 - typer evaluates it, and old ones cannot read X | None
        typer.Option(
            "--stream/--no-stream",
            help="Print the answer while it is generated. (default: on a terminal)",
            show_default=False,
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask a model about a video, reading it with few tokens.

    Several questions share one pass over the video.
    """
    # Check the files first: a wrong name should fail before the model is loaded.
    from vtc.pages.text import check_target

    if page is not None:
        check_target(page, ".html", "the page")
        if len(questions) > 1:
            raise ValueError(f"--page shows one question, got {len(questions)}; ask one at a time")
    if stream and (as_json or len(questions) > 1):
        raise ValueError("expected --stream with one question and without --json")
    frames.require_cache()
    source = frames.open(video)
    settings = answering.arguments()
    began = perf_counter()
    model, processor = model_options.open(quiet=as_json)
    loading = perf_counter() - began

    import vtc
    from vtc.wrapped.access import toolkit_of

    toolkit_of(model).heat_frames = heat
    if stream is None:
        stream = sys.stdout.isatty() and len(questions) == 1 and not as_json
    beams = answering.num_beams or model.generation_config.num_beams or 1
    with ExitStack() as bars:
        toolkit_of(model).progress = bars.enter_context(progress_bars(quiet=as_json))
        if stream and beams == 1:
            _ask_and_stream(model, processor, source, questions[0], settings, loading, bars, page)
            return
        answers = vtc.ask(model, processor, source, questions, **settings)
    total = perf_counter() - began
    if page is not None:
        answers[0].report.save_page(page)
    if as_json:
        seconds = {"loading": loading, "total": total}
        print_json({**ask_result(video, questions, answers), "seconds": seconds})
        return
    console = terminal()
    if page is not None:
        console.print(f"page: {page}", markup=False)
    for question, answer in zip(questions, answers, strict=True):
        if len(questions) > 1:
            console.print(question, style="bold underline", markup=False)
        console.print(facts(answer.report, source, f"loading {loading:.2f}, total {total:.2f}"))
        console.print()
        console.print(answer.text or "(nothing)", style="bold", markup=False)
        if answer is not answers[-1]:
            console.print()


def _ask_and_stream(
    model: Any,
    processor: Any,
    source: VideoSource,
    question: str,
    settings: dict[str, Any],
    loading: float,
    bars: ExitStack,
    page: str | None,
) -> None:
    """Print the report when the video has been read, and the answer while it is generated.

    Later facts, such as the time of the answer, are printed to the error stream.
    """
    import vtc
    from vtc.cli.streaming import AnswerStream

    shown: list[str] = []

    def show_report() -> None:
        bars.close()  # bars would be drawn over the answer
        report = vtc.last_report(model)
        shown.extend(report.warnings)
        terminal().print(facts(report, source, f"loading {loading:.2f}"))
        terminal().print()

    answer_stream = AnswerStream(processor.tokenizer, show_report)
    answer = vtc.ask(model, processor, source, question, streamer=answer_stream, **settings)
    print("(nothing)" if answer_stream.is_empty else "")
    report, notes = answer.report, terminal(stderr=True)
    writing, total = report.stages["language model"].seconds, loading + report.total_seconds
    notes.print(f"seconds: language model {writing:.2f}, total {total:.2f}", style="dim")
    for warning in report.warnings:
        if warning not in shown:
            notes.print(f"note: {warning}", markup=False)
    if page is not None:
        report.save_page(page)
        notes.print(f"page: {page}", markup=False)
