"""Options that several commands take, as typer reads them."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

Text = Optional[str]  # noqa: UP007, UP045 - typer evaluates it, and old ones cannot read X | None
Count = Optional[int]  # noqa: UP007, UP045
Number = Optional[float]  # noqa: UP007, UP045

DEFAULT_MODEL = "llava-hf/llava-onevision-qwen2-7b-ov-hf"

Model = Annotated[str, typer.Option(help="A folder, or the name of a model on the hub.")]
Selector = Annotated[Text, typer.Option(help="Chooses the keyframes. (default: dks)")]
Merger = Annotated[Text, typer.Option(help="Merges the other frames. (default: dfm)")]
Keyframes = Annotated[Count, typer.Option(help="Keyframes at most. (default: 32)")]
Encoder = Annotated[
    Text, typer.Option(help="The frame encoder. (default: open_clip:ViT-B-32/openai)")
]
SelectorOption = Annotated[
    list[str], typer.Option("--selector-option", "-s", help="NAME=VALUE; see vtc parts.")
]
MergerOption = Annotated[
    list[str], typer.Option("--merger-option", "-m", help="NAME=VALUE; see vtc parts.")
]
AdapterOption = Annotated[
    list[str], typer.Option("--adapter-option", "-a", help="NAME=VALUE; see vtc parts.")
]

Fps = Annotated[float, typer.Option(help="Frames to read a second.")]
MaxFrames = Annotated[Count, typer.Option(help="Read at most this many frames, spread evenly.")]
VideoReader = Annotated[str, typer.Option("--reader", help="Decodes the video: pyav or decord.")]

MaxNewTokens = Annotated[int, typer.Option(min=1, help="The longest answer in tokens.")]
Temperature = Annotated[
    Number, typer.Option(min=0, help="Sample the answer at this temperature; 0: do not sample.")
]
TopP = Annotated[
    Number, typer.Option(min=0, max=1, help="Sample among the likeliest tokens of this share.")
]
NumBeams = Annotated[Count, typer.Option(min=1, help="Search the answer in beams.")]

AttnImplementation = Annotated[
    Text, typer.Option(help="Of the model: sdpa, eager, flash_attention_2 ...")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run the Python code that the model's folder or repository has."
    ),
]
Page = Annotated[
    Text, typer.Option(help="Write a page (HTML) that shows when and why to this file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def generation_settings(
    temperature: float | None, top_p: float | None, num_beams: int | None
) -> dict[str, Any]:
    """Return the arguments of ``generate`` that the command line gives.

    Raises:
        ValueError: A temperature of 0, which never samples, stands beside ``top_p``.
    """
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
