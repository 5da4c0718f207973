"""``vtc demo``: ask the shipped tiny model about a needle in a long video file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.table import Table

from vtc.cli.output import print_json, terminal
from vtc.cli.show import ask_result, clock, facts, progress_bars

if TYPE_CHECKING:
    from vtc.pipeline.report import Keyframe
    from vtc.video import VideoSource
    from vtc_recipes.demo_story import StoryAnswers
    from vtc_recipes.synthetic.cases import Case

Text = Optional[str]  # noqa: UP007, UP045 - older typer cannot evaluate X | None

SIDE = 192
"""Height and width of the synthetic video in pixels: enough for people; the model sees 48."""
SYNTHETIC = "The synthetic video"
REAL_MODEL = "llava-hf/llava-onevision-qwen2-7b-ov-hf"


def demo(
    video: Annotated[
        Text, typer.Option(help="A video file; by default a synthetic one is written.")
    ] = None,
    question: Annotated[
        Text, typer.Option(help="The question; by default about the synthetic needle.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Folder for the demo's files.")] = Path("demo"),
    keyframes: Annotated[int, typer.Option(help="Maximum number of keyframes.")] = 32,
    frames: Annotated[
        int, typer.Option(help="Number of frames, at one per second.", rich_help_panel=SYNTHETIC)
    ] = 1000,
    depth: Annotated[
        float, typer.Option(help="Depth of the needle: 0 start, 1 end.", rich_help_panel=SYNTHETIC)
    ] = 0.6,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of the video and the question.", rich_help_panel=SYNTHETIC),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hide a needle in a long video file, and ask a tiny trained model about it.

    Then ask about a short video whose keyframes do not show the answer: with merged tokens, and
    with the other frames dropped. Model and videos come from one synthetic world, so the answers
    are meaningful.

    With --video the question is about your own file, and the answer is meaningless.
    """
    import transformers

    import vtc
    from vtc.pages.contact_sheet import contact_sheet
    from vtc.pages.text import check_target
    from vtc.pages.timeline import Mark
    from vtc.plugins.registry import build_part
    from vtc.video import VideoSource
    from vtc.video.writing import write_video
    from vtc.wrapped.access import toolkit_of
    from vtc_recipes import demo_story
    from vtc_recipes.evaluation.niah import is_right
    from vtc_recipes.synthetic.cases import make_cases
    from vtc_recipes.tiny.trained import load_trained

    # Check the options before any work.
    build_part("selector", vtc.selector("dks", keyframes=keyframes))
    [case] = make_cases(
        [frames], [depth], 1, spread=0.0, kinds=["colour"], seed=seed, size=(SIDE, SIDE)
    )
    text = (question or "").strip() or case.question
    path = str(folder / "needle.mp4") if video is None else video
    source = None if video is None else VideoSource(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"folder {str(folder)!r} cannot be made: {error.strerror}") from error
    sheet, page = folder / "keyframes.png", folder / "answer.html"
    check_target(sheet, ".png", "the contact sheet")
    check_target(page, ".html", "the page")

    transformers.utils.logging.disable_progress_bar()
    model, processor = load_trained(keyframes)
    with progress_bars(quiet=as_json) as show:
        if source is None:
            write_video(path, _frames(case.video(), show), fps=1)
            source = VideoSource(path)
        toolkit_of(model).progress = show
        answer = vtc.ask(model, processor, source, text, max_new_tokens=8)
    selected = answer.report.keyframes
    needle = case if video is None and text == case.question else None
    inside = range(needle.start, needle.start + needle.needle_frames) if needle else range(0)
    frames_of = source.frames([frame.index for frame in selected])
    contact_sheet(frames_of, selected, title=[text, source.name], marked=inside).save(sheet)
    marks = [Mark("needle", inside.start, inside.stop)] if needle else []  # one frame per second
    answer.report.save_page(page, marks)
    right = needle and is_right(answer.text, needle.answer)
    story = demo_story.ask_story(seed) if needle else None
    if as_json:
        result = {
            **ask_result(path, [text], [answer]),
            "ground_truth": needle and needle.answer,
            "truth": needle and needle.answer,  # the old name
            "right": right,
            "needle": needle and [needle.start, needle.start + needle.needle_frames],
            "story": story and story.to_dict(),
            "sheet": str(sheet),
            "page": str(page),
        }
        print_json(result)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(
        style="bold", no_wrap=True, min_width=len("keyframes")
    )  # as wide as in the facts below
    table.add_column()
    table.add_row("question", escape(text))
    table.add_row("answer", escape(answer.text) or "(nothing)")
    if needle is None:
        subject = "question" if video is None else "video"
        table.add_row("ground truth", f"unknown for your own {subject}")
    else:
        verdict = "[bold green]right[/]" if right else "[bold red]wrong[/]"
        table.add_row("ground truth", f"{needle.answer}, so the answer is {verdict}")
        for row in _around_the_needle(needle, selected, source):
            table.add_row(*row)
    console = terminal()
    console.print(table)
    console.print()
    console.print(facts(answer.report, source))
    if story is not None:
        console.print()
        console.print(_story_table(story))
    files = f"\nThe video is {path}, its keyframes are in {sheet}."
    console.print(files, markup=False, soft_wrap=True)
    console.print(
        f"Open {page} in a browser for the keyframes' times and relevance.",
        markup=False,
        soft_wrap=True,
    )
    note = "This was a tiny model on synthetic video."
    if video is not None:
        note = (
            "The tiny model and its frame encoder know only a synthetic world, so the answer about "
            "your video and the relevance of its frames are meaningless."
        )
    command = f"vtc ask {shlex.quote(path)} {shlex.quote(text)} --model {REAL_MODEL}"
    console.print(f"{note} With a real model: {command}", markup=False, soft_wrap=True)


def _story_table(story: StoryAnswers) -> Table:
    """Return the answers about a story, with merged tokens and without them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=len("keyframes"))
    table.add_column()
    table.add_row(
        "story",
        f"{story.frames} frames; the {story.keyframes} keyframes show {story.covered} of the "
        f"{story.events} needed scenes",
    )
    table.add_row("its question", escape(story.question))
    table.add_row("its answer", story.ground_truth)
    for name, text in (("merged", story.merged), ("dropped", story.dropped)):
        verdict = "[bold green]right[/]" if text == story.ground_truth else "[bold red]wrong[/]"
        table.add_row(name, f"{escape(text) or '(nothing)'}, {verdict}")
    return table


def _frames(source: VideoSource, show: Any) -> Iterator[Any]:
    for chunk in source.chunks():
        yield from chunk.frames
        show("writing the video", int(chunk.indices[-1]) + 1, len(source))


def _around_the_needle(
    case: Case, keyframes: Sequence[Keyframe], source: VideoSource
) -> Iterator[tuple[str, str]]:
    """Yield table rows: the needle, and the keyframes inside it and next to it."""
    first, end = case.start, case.start + case.needle_frames

    def frame_list(numbers: Sequence[int]) -> str:
        frames = [f"{number} ({clock(float(source.timestamps[number]))})" for number in numbers]
        return ", ".join(frames) or "none"

    yield "needle", f"frames {frame_list([first])} to {frame_list([end - 1])} of {len(source)}"
    numbers = [frame.index for frame in keyframes]
    inside = [number for number in numbers if first <= number < end]
    yield "in it", f"{len(inside)} of {len(numbers)} keyframes: {frame_list(inside)}"
    before = frame_list([number for number in numbers if number < first][-1:])
    after = frame_list([number for number in numbers if number >= end][:1])
    yield "around it", f"keyframe {before} before, {after} after"
