"""``vtc select``: the keyframes of a video for a query, without a language model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vtc.cli import options
from vtc.cli.models import part_choice
from vtc.cli.output import print_json, print_result, terminal
from vtc.cli.show import clock, progress_bars

if TYPE_CHECKING:
    from vtc.pipeline.report import Report
    from vtc.video import VideoSource


class Form(str, Enum):
    """The output formats of ``vtc select``."""

    table = "table"
    json = "json"
    openai = "openai"
    vllm = "vllm"


@options.grouped
def select(
    video: Annotated[str, typer.Argument(help="A video file.")],
    query: Annotated[options.Text, typer.Argument(help="The text to look for.")] = None,
    *,
    frames: options.FrameOptions,
    selector: options.Selector = None,
    keyframes: options.Keyframes = None,
    encoder: Annotated[
        str, typer.Option(help="The frame encoder, unless the selector names one.")
    ] = "open_clip:ViT-B-32/openai",
    selector_option: options.SelectorOption = [],  # noqa: B006 - typer copies it
    sheet: Annotated[
        options.Text, typer.Option(help="Write the keyframes as one picture (PNG) to this file.")
    ] = None,
    page: options.Page = None,
    device: options.Device = "auto",
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="table; json; openai or vllm: a chat message with the keyframes.",
        ),
    ] = Form.table,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print or draw the keyframes of a video for a query, or write them for other programs."""
    from vtc.pages.contact_sheet import contact_sheet
    from vtc.pages.text import check_target

    if as_json and form is not Form.table:
        raise ValueError(f"expected --json or --format {form.value}, got both")
    form = Form.json if as_json else form
    if sheet is not None:
        check_target(sheet, ".png", "the contact sheet")  # before any work is done
    if page is not None:
        check_target(page, ".html", "the page")
    source = frames.open(video)

    import transformers

    from vtc.encoders.device import pick_device
    from vtc.encoders.lazy import LazyEncoder
    from vtc.pipeline.selecting import select_video
    from vtc.plugins import registry

    transformers.utils.logging.disable_progress_bar()
    spec = part_choice("dks", selector, selector_option, keyframes).spec()
    name = registry.build_part("selector", spec).encoder or encoder
    lazy = LazyEncoder(name, device=pick_device(device))
    with progress_bars(quiet=form is not Form.table) as show:
        report = select_video(source, query, spec, lazy, show)
    written = []
    if sheet is not None and report.keyframes:
        pictures = source.frames([frame.index for frame in report.keyframes])
        contact_sheet(pictures, report.keyframes, title=[query or "", source.name]).save(sheet)
        written.append(f"contact sheet: {sheet}")
    if page is not None:
        report.save_page(page)
        written.append(f"page: {page}")
    if form is Form.table:
        cached = [f"cache: {line}" for line in report.cache_lines]
        _print_table(report, [*cached, *(f"note: {note}" for note in report.warnings), *written])
        return
    if form is Form.json:
        print_json(_result(video, report))
        return
    text = _message(form, source, report)
    print_result(text)
    print(
        f"{len(report.keyframes)} pictures of {source.width}x{source.height}, "
        f"{len(text) / 1e6:.1f} MB",
        file=sys.stderr,
    )


def _result(video: str, report: Report) -> dict[str, Any]:
    """Return the result for ``--json``."""
    [video_report] = report.videos
    return {
        "video": video,
        "query": video_report.query,
        "selector": report.selector,
        "frames": video_report.frames,
        "keyframes": [asdict(frame) for frame in video_report.keyframes],
        "timestamps": video_report.timestamps,
        "relevance": video_report.relevance,
        "cache": [asdict(use) for use in video_report.cache],
        "uncovered": video_report.uncovered,
        "warnings": report.warnings,
    }


def _message(form: Form, source: VideoSource, report: Report) -> str:
    """Return the keyframes as a part of a chat request."""
    from vtc.export.chat import openai_request, vllm_request

    if not report.keyframes:
        raise ValueError(f"there is nothing to write: {report.warnings[-1]}")
    build = openai_request if form is Form.openai else vllm_request
    query = report.videos[0].query
    return json.dumps(build(source, [frame.index for frame in report.keyframes], query))


def _print_table(report: Report, lines: Sequence[str]) -> None:
    console = terminal()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("frame", "time", "seconds", "relevance"):
        table.add_column(title, justify="right")
    for frame in report.keyframes:
        seconds = 0.0 if frame.timestamp is None else frame.timestamp
        relevance = "" if frame.relevance is None else f"{frame.relevance:.4f}"
        table.add_row(str(frame.index), clock(seconds), f"{seconds:.3f}", relevance)
    console.print(table)
    count = f"{len(report.keyframes)} of {report.frames} frames of {report.videos[0].name}"
    for line in (count, *lines):
        console.print(line, markup=False)
