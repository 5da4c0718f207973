"""``vtc evaluate videoniah``: make cases from your own videos, and ask a model about them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, print_line, terminal

if TYPE_CHECKING:
    from vtc_recipes.evaluation.videoniah.cases import NiahCase

app = typer.Typer(
    help="Hide clips in hours of your own videos and ask about them (VideoNIAH).",
    no_args_is_help=True,
)
_IN_THE_FILE_ONLY = ("keyframes in needle", "tokens", "seconds")
"""Columns that do not fit into a terminal."""
Videos = Annotated[Path, typer.Option(metavar="DIR", help="Folder with the videos.")]


@app.command()
def make(
    questions: Annotated[
        Path, typer.Option(help="Questions: Video-MME's parquet file, or your own JSON lines.")
    ],
    videos: Videos,
    out: Annotated[Path, typer.Option(help="The file of cases to write (JSON lines).")],
    lengths: Annotated[
        str, typer.Option(help="Numbers of frames per video, at one per second.")
    ] = "2000,4000,6000,8000,10000",
    depths: Annotated[int, typer.Option(min=1, help="Number of evenly spaced depths, 0 to 1.")] = 5,
    cases: Annotated[int, typer.Option(min=1, help="Cases per length and depth.")] = 120,
    spread: Annotated[float, typer.Option(help="Maximum deviation from a depth.")] = 0.1,
    needle_seconds: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Minimum and maximum length of a needle.")
    ] = "30,120",
    haystack_seconds: Annotated[
        float, typer.Option(help="Minimum length of a haystack video.")
    ] = 1800.0,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Let haystacks repeat videos if there are too few.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Make cases: clips with questions, hidden at five depths in hours of other videos.

    Only the cases are written. Their videos are joined from the files on the fly.
    """
    from vtc.cli.show import progress_bars
    from vtc.video import VideoError, VideoSource
    from vtc_recipes.evaluation.videoniah import cases as making
    from vtc_recipes.evaluation.videoniah.questions import read_questions, video_files

    sizes, seconds = _numbers("lengths", lengths), _numbers("needle-seconds", needle_seconds)
    if len(seconds) != 2 or not 1 <= seconds[0] <= seconds[1]:
        raise ValueError(f"expected --needle-seconds to be LOW,HIGH, got {needle_seconds!r}")
    rows = read_questions(questions, videos)
    frames: dict[str, int] = {}
    skipped: list[str] = []
    names = video_files(videos)
    with progress_bars(quiet=as_json) as show:
        for number, name in enumerate(names, 1):
            try:
                frames[name] = len(VideoSource(videos / name))
            except VideoError as error:
                skipped.append(str(error))
            show("videos", number, len(names))
    new_cases = making.make_cases(
        rows,
        frames,
        lengths=sizes,
        depths=depths,
        each=cases,
        spread=spread,
        needle_seconds=(seconds[0], seconds[1]),
        haystack_seconds=haystack_seconds,
        repeat=repeat,
        seed=seed,
    )
    making.write_cases(out, new_cases)
    result = _facts(new_cases, frames, skipped)
    if as_json:
        print_json({"file": str(out), **result})
        return
    for line in skipped:
        print_line(f"skipped: {line}")
    print_line(
        f"{len(new_cases)} cases in {out}: {result['questions']} questions about "
        f"{result['needles']} clips, haystacks of {result['haystack_videos']} videos"
    )
    if result["most_repeats"] > 1:
        print_line(
            f"haystacks repeat a video up to {result['most_repeats']} times, so they hold fewer "
            "distinct frames than their length suggests"
        )


def _facts(new_cases: list[NiahCase], frames: dict[str, int], skipped: list[str]) -> dict[str, Any]:
    return {
        "cases": len(new_cases),
        "questions": len({(case.needle, case.question) for case in new_cases}),
        "needles": len({case.needle for case in new_cases}),
        "kinds": sorted({case.kind for case in new_cases}),
        "haystack_videos": len({clip.video for case in new_cases for clip in case.haystack}),
        "most_repeats": max(case.repeats for case in new_cases),
        "videos": len(frames),
        "skipped": skipped,
    }


@app.command()
@options.grouped
def run(
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="The file written by make.")],
    videos: Videos,
    out: Annotated[Path, typer.Option(help="Folder for the results; a run in it is resumed.")],
    model_options: ModelOptions,
    controls: Annotated[
        str, typer.Option(help="Controls: some of uniform,random,downsampled,no_video; or none.")
    ] = "uniform,random,downsampled,no_video",
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Size of all frames; other shapes get black bars.")
    ] = "640x360",
    prompt: Annotated[
        options.Text,
        typer.Option(help="Prompt with {question}, {options}, {letters}. (default: Video-MME's)"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer.")] = 16,
    limit: Annotated[
        options.Count, typer.Option(min=1, help="Ask only this many cases, spread over all.")
    ] = None,
    shard: Annotated[
        options.Text,
        typer.Option(metavar="I/N", help="Ask only part I of N of the cases, such as 2/8."),
    ] = None,
    cache: options.Cache = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask a model about cases, run the controls, and draw heat maps as in Figure 2."""
    from vtc.batch.rows import Shard
    from vtc.cli.show import progress_bars
    from vtc.wrapped.access import toolkit_of
    from vtc_recipes.evaluation.resuming import make_folder, model_files, resumable
    from vtc_recipes.evaluation.videoniah import asking, running
    from vtc_recipes.evaluation.videoniah.cases import digest, read_cases
    from vtc_recipes.evaluation.videoniah.haystack import Haystacks
    from vtc_recipes.evaluation.videoniah.results import lines_of, notes_of, write_results

    names = asking.settings_of(controls)
    asking.check_prompt(prompt or asking.PROMPT)
    place = Shard.read(shard) if shard is not None else Shard(1, 1)
    all_cases = read_cases(cases)
    if limit is not None and limit < len(all_cases):
        all_cases = [all_cases[k * len(all_cases) // limit] for k in range(limit)]
    haystacks = Haystacks(videos, _size(size), cache)
    _check_files(all_cases, videos)
    make_folder(out)
    model, processor = model_options.open(quiet=as_json)
    toolkit = toolkit_of(model)
    settings: dict[str, Any] = {
        "model": model_options.model,
        "files": model_files(model_options.model),
        "selector": toolkit.describe(toolkit.selector),
        "merger": toolkit.describe(toolkit.merger),
        "budget": None if toolkit.budget is None else toolkit.describe(toolkit.budget),
        "encoder": toolkit.selector_encoder.name if toolkit.selector.uses_embeddings else None,
        "connector": toolkit.connector_kind,
        "prompt": prompt or asking.PROMPT,
        "max_new_tokens": max_new_tokens,
        "size": size,
        "cases": digest(all_cases),
    }
    asker = asking.Asker(
        model,
        processor,
        haystacks,
        settings["prompt"],
        cached=cache is not None,
        max_new_tokens=max_new_tokens,
    )
    with resumable(out), progress_bars(quiet=as_json, window=3600.0) as show:
        toolkit.progress = show
        lost = running.run(
            all_cases,
            names,
            asker,
            out,
            settings,
            (place.number, place.count),
            lambda done, total: show("answers", done, total),
        )
    records = running.all_records(out)
    if records:
        summary = write_results(out, all_cases, records, names, settings)
        if as_json:
            print_json({"settings": settings, "results": summary, "errors": lost})
        else:
            head, *rows = lines_of(summary, settings)
            table = Table(box=box.SIMPLE_HEAD, title="VideoNIAH: right answers, %")
            shown = [n for n, name in enumerate(head) if name not in _IN_THE_FILE_ONLY]
            for n in shown:
                table.add_column(head[n], no_wrap=True, justify="right" if n else "left")
            for row in rows:
                table.add_row(*(row[n] for n in shown))
            terminal().print(table)
            for note in notes_of(all_cases, summary, settings):
                print_line(f"note: {note}")
            print_line(f"results: {out / 'results.md'}, heat maps: {out / 'heatmap.png'}")
    if lost:
        for line in lost:
            typer.echo(f"not asked: {line}", err=True)
        raise typer.Exit(1)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"expected --{option} to be integers such as 30,120, got {text!r}"
        ) from error


def _size(text: str) -> tuple[int, int]:
    """Parse ``WxH`` into height and width."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise ValueError(f"expected --size to be WIDTHxHEIGHT in pixels, got {text!r}")
    return int(match[2]), int(match[1])


def _check_files(cases: list[NiahCase], folder: Path) -> None:
    """Check that the files of all cases exist, before a model is loaded."""
    clips = (clip for case in cases for clip in (case.needle, *case.haystack))
    names = dict.fromkeys(clip.video for clip in clips)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} videos of the cases are not in {folder}, such as "
            f"{missing[0]}"
        )
