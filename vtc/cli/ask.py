"""``vtc ask``: ask a model about a video file."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, terminal
from vtc.cli.show import ask_result, facts, progress_bars


@options.grouped
def ask(
    video: Annotated[str, typer.Argument(help="A video file.")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION...", help="What to ask about it.")
    ],
    wrapped: ModelOptions,
    frames: options.FrameOptions,
    answering: options.AnswerOptions,
    page: options.Page = None,
    heat: Annotated[
        int, typer.Option(min=0, help="Frames on the page whose weights are shown.")
    ] = 4,
    as_json: options.AsJson = False,
) -> None:
    """Ask a model about a video, reading it with few tokens.

    Several questions share one pass over the video.
    """
    # The files first: a wrong name should not wait for a model to load.
    from vtc.pages.text import check_target

    if page is not None:
        check_target(page, ".html", "the page")
        if len(questions) > 1:
            raise ValueError(f"--page shows one question, got {len(questions)}; ask one at a time")
    source = frames.open(video)
    settings = answering.arguments()
    began = perf_counter()
    model, processor = wrapped.open(quiet=as_json)
    loading = perf_counter() - began

    import vtc
    from vtc.wrapped.access import toolkit_of

    toolkit_of(model).heat_frames = heat
    with progress_bars(quiet=as_json) as toolkit_of(model).progress:
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
