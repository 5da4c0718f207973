"""``vtc ask``: ask a model about a video file."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

import typer

from vtc.cli import options
from vtc.cli.models import load_model, part_choice, read_options
from vtc.cli.output import print_json, terminal
from vtc.cli.show import ask_result, facts, progress_bars


def ask(
    video: Annotated[str, typer.Argument(help="A video file.")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION...", help="What to ask about it.")
    ],
    model: options.Model = options.DEFAULT_MODEL,
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
    page: options.Page = None,
    heat: Annotated[
        int, typer.Option(min=0, help="Frames on the page whose weights are shown.")
    ] = 4,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Ask a model about a video, reading it with few tokens.

    Several questions share one pass over the video.
    """
    # The files first: a wrong name should not wait for a model to load.
    from vtc.pages.text import check_target
    from vtc.video import VideoSource

    if page is not None:
        check_target(page, ".html", "the page")
        if len(questions) > 1:
            raise ValueError(f"--page shows one question, got {len(questions)}; ask one at a time")
    source = VideoSource(video, fps=fps, max_frames=max_frames, reader=reader)
    choices = (
        part_choice("dks", selector, selector_option, keyframes),
        part_choice("dfm", merger, merger_option),
    )
    family = read_options(adapter_option)
    settings = options.generation_settings(temperature, top_p, num_beams)
    began = perf_counter()
    loaded, processor = load_model(
        model,
        *choices,
        encoder,
        device,
        dtype,
        trust_remote_code,
        attn_implementation,
    )
    loading = perf_counter() - began

    import vtc
    from vtc.wrapped.access import toolkit_of

    toolkit_of(loaded).configure(**family)
    toolkit_of(loaded).heat_frames = heat
    with progress_bars(quiet=as_json) as toolkit_of(loaded).progress:
        answers = vtc.ask(
            loaded, processor, source, questions, max_new_tokens=max_new_tokens, **settings
        )
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
