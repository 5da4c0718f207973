"""``vtc ask``: ask a model about a video file."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from vtc.cli.models import TrustRemoteCode, load_model, part_choice, read_options
from vtc.cli.output import print_json, terminal
from vtc.cli.show import ask_result, facts, progress_bars

Text = Optional[str]  # noqa: UP007, UP045 - typer evaluates it, and old ones cannot read X | None
Count = Optional[int]  # noqa: UP007, UP045


def ask(
    video: Annotated[str, typer.Argument(help="A video file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
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
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer in tokens.")] = 256,
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
    """Ask a model about a video, reading it with few tokens."""
    # The files first: a wrong name should not wait for a model to load.
    from vtc.pages.text import check_target
    from vtc.video import VideoSource

    if page is not None:
        check_target(page, ".html", "the page")
    source = VideoSource(video, fps=fps, max_frames=max_frames, reader=reader)
    choices = (
        part_choice("dks", selector, selector_option, keyframes),
        part_choice("dfm", merger, merger_option),
    )
    family = read_options(adapter_option)
    loaded, processor = load_model(model, *choices, encoder, device, dtype, trust_remote_code)

    import vtc
    from vtc.wrapped.access import toolkit_of

    toolkit_of(loaded).configure(**family)
    toolkit_of(loaded).heat_frames = heat
    with progress_bars(quiet=as_json) as toolkit_of(loaded).progress:
        answer = vtc.ask(loaded, processor, source, question, max_new_tokens=max_new_tokens)
    if page is not None:
        answer.report.save_page(page)
    if as_json:
        print_json(ask_result(video, question, answer))
        return
    console = terminal()
    console.print(answer.text or "(nothing)", style="bold", markup=False)
    console.print()
    console.print(facts(answer.report, source))
    if page is not None:
        console.print(f"page: {page}", markup=False)
