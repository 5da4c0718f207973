"""``vtc select``: the keyframes of a video for a query, without any language model."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from vtc.cli.models import part_choice
from vtc.cli.show import clock, progress_bars

Text = Optional[str]  # noqa: UP007, UP045 - typer evaluates it, and old ones cannot read X | None
Count = Optional[int]  # noqa: UP007, UP045


def select(
    video: Annotated[str, typer.Argument(help="A video file.")],
    query: Annotated[Text, typer.Argument(help="What to look for.")] = None,
    selector: Annotated[Text, typer.Option(help="Chooses the keyframes. (default: dks)")] = None,
    keyframes: Annotated[Count, typer.Option(help="Keyframes at most. (default: 32)")] = None,
    fps: Annotated[float, typer.Option(help="Frames to read a second.")] = 1.0,
    max_frames: Annotated[
        Count, typer.Option(help="Read at most this many frames, spread evenly.")
    ] = None,
    reader: Annotated[str, typer.Option(help="Decodes the video: pyav or decord.")] = "pyav",
    encoder: Annotated[
        str, typer.Option(help="The frame encoder, unless the selector names its own.")
    ] = "open_clip:ViT-B-32/openai",
    selector_option: Annotated[
        list[str], typer.Option("--selector-option", "-s", help="NAME=VALUE; see vtc parts.")
    ] = [],  # noqa: B006 - typer copies it
    sheet: Annotated[
        Text, typer.Option(help="Write the keyframes as one picture (PNG) to this file.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the keyframes of a video for a query, and draw them on a contact sheet."""
    from vtc.pages.contact_sheet import check_target, contact_sheet
    from vtc.video import VideoSource

    if sheet is not None:
        check_target(sheet)  # before the work, not after it
    source = VideoSource(video, fps=fps, max_frames=max_frames, reader=reader)

    import torch
    import transformers

    from vtc.encoders.lazy import LazyEncoder
    from vtc.pipeline.report import Recorder, Report, keyframes_of
    from vtc.pipeline.selection import embed_query, select_frames
    from vtc.plugins import registry
    from vtc.wrapped.opening import pick_device

    transformers.utils.logging.disable_progress_bar()
    spec = part_choice("dks", selector, selector_option, keyframes).spec()
    chosen = registry.build_part("selector", spec)
    if chosen.uses_query and query is None:
        raise ValueError(
            f"selector {spec['name']!r} needs a query: vtc select VIDEO 'what to find'"
        )
    timestamps = torch.as_tensor(source.timestamps)
    report = Report(selector=registry.spec_of(chosen), merger={})
    lazy = LazyEncoder(chosen.encoder or encoder, device=pick_device(device))
    with progress_bars(quiet=as_json) as show:
        recorder = Recorder(report, show)
        selection = select_frames(
            chosen,
            lazy,
            (torch.from_numpy(chunk.frames) for chunk in source.chunks()),
            len(source),
            timestamps,
            None if query is None else partial(embed_query, lazy, query, recorder),
            recorder,
            spec["name"],
        )
    found = keyframes_of(selection, timestamps)
    if not found:
        report.warnings.append("no frame was good enough for a keyframe; there is no sheet to draw")
        sheet = None
    if sheet is not None:
        contact_sheet(source.frames([frame.index for frame in found]), found).save(sheet)
    warnings = [*report.warnings, *source.warnings]
    if as_json:
        result: dict[str, Any] = {
            "video": video,
            "query": query,
            "selector": report.selector,
            "frames": len(source),
            "keyframes": [asdict(frame) for frame in found],
            "warnings": warnings,
        }
        print(json.dumps(result, indent=2))
        return
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("frame", "time", "seconds", "relevance"):
        table.add_column(title, justify="right")
    for frame in found:
        seconds = 0.0 if frame.timestamp is None else frame.timestamp
        relevance = "" if frame.relevance is None else f"{frame.relevance:.4f}"
        table.add_row(str(frame.index), clock(seconds), f"{seconds:.3f}", relevance)
    console.print(table)
    console.print(f"{len(found)} of {len(source)} frames of {source.name}", markup=False)
    for warning in warnings:
        console.print(f"note: {warning}", markup=False)
    if sheet is not None:
        console.print(f"contact sheet: {sheet}", markup=False)
