"""``vtc ask``: ask a model about a video file."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated, Any, Optional

import typer

from vtc.cli.models import TrustRemoteCode, load_model, part_choice, read_options
from vtc.cli.output import print_json, terminal
from vtc.cli.show import ask_result, facts, progress_bars

Text = Optional[str]  # noqa: UP007, UP045 - typer evaluates it, and old ones cannot read X | None
Count = Optional[int]  # noqa: UP007, UP045
Number = Optional[float]  # noqa: UP007, UP045


def ask(
    video: Annotated[str, typer.Argument(help="A video file.")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION...", help="What to ask about it.")
    ],
    model: Annotated[
        str, typer.Option(help="A folder, or the name of a model on the hub.")
    ] = "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    selector: Annotated[Text, typer.Option(help="Chooses the keyframes. (default: dks)")] = None,
    merger: Annotated[Text, typer.Option(help="Merges the other frames. (default: dfm)")] = None,
    keyframes: Annotated[Count, typer.Option(help="Keyframes at most. (default: 32)")] = None,
    fps: Annotated[float, typer.Option(help="Frames to read a second.")] = 1.0,
    max_frames: Annotated[
        Count, typer.Option(help="Read at most this many frames, spread evenly.")
    ] = None,
    reader: Annotated[str, typer.Option(help="Decodes the video: pyav or decord.")] = "pyav",
    encoder: Annotated[
        Text,
        typer.Option(help="The frame encoder. (default: open_clip:ViT-B-32/openai)"),
    ] = None,
    selector_option: Annotated[
        list[str], typer.Option("--selector-option", "-s", help="NAME=VALUE; see vtc parts.")
    ] = [],  # noqa: B006 - typer copies it
    merger_option: Annotated[
        list[str], typer.Option("--merger-option", "-m", help="NAME=VALUE; see vtc parts.")
    ] = [],  # noqa: B006
    adapter_option: Annotated[
        list[str], typer.Option("--adapter-option", "-a", help="NAME=VALUE; see vtc parts.")
    ] = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer in tokens.")] = 256,
    temperature: Annotated[
        Number, typer.Option(min=0, help="Sample the answer at this temperature; 0: do not sample.")
    ] = None,
    top_p: Annotated[
        Number, typer.Option(min=0, max=1, help="Sample among the likeliest tokens of this share.")
    ] = None,
    num_beams: Annotated[Count, typer.Option(min=1, help="Search the answer in beams.")] = None,
    attn_implementation: Annotated[
        Text, typer.Option(help="Of the model: sdpa, eager, flash_attention_2 ...")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    page: Annotated[
        Text, typer.Option(help="Write a page (HTML) that shows when and why to this file.")
    ] = None,
    heat: Annotated[
        int, typer.Option(min=0, help="Frames on the page whose weights are shown.")
    ] = 4,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
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
    settings = _generation_settings(temperature, top_p, num_beams)
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


def _generation_settings(
    temperature: float | None, top_p: float | None, num_beams: int | None
) -> dict[str, Any]:
    """Return the arguments of ``generate`` that the command line gives."""
    settings: dict[str, Any] = {} if num_beams is None else {"num_beams": num_beams}
    if temperature == 0:
        if top_p is not None:
            raise ValueError("expected --temperature > 0 with --top-p, got 0, which never samples")
        return {**settings, "do_sample": False}
    if temperature is not None:
        settings |= {"do_sample": True, "temperature": temperature}
    if top_p is not None:
        if top_p == 0:
            raise ValueError("expected --top-p > 0, got 0")
        settings |= {"do_sample": True, "top_p": top_p}
    return settings
