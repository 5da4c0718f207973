"""``vtc niah``: needles in video haystacks, and a heat map of how often they are found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from vtc.cli.models import TrustRemoteCode, load_model, part_choice
from vtc.cli.output import print_json, print_line

Text = Optional[str]  # noqa: UP007, UP045 - typer evaluates it, and old ones cannot read X | None
Count = Optional[int]  # noqa: UP007, UP045


def niah(
    out: Annotated[Path, typer.Option(help="Folder for the results; continued if it has some.")],
    lengths: Annotated[str, typer.Option(help="Frames of the videos.")] = "64,256,1024",
    depths: Annotated[int, typer.Option(min=1, help="Depths, evenly from front to end.")] = 5,
    spread: Annotated[float, typer.Option(help="How far off these needles may be.")] = 0.1,
    cases: Annotated[int, typer.Option(min=1, help="Cases for each length and depth.")] = 20,
    kinds: Annotated[
        str, typer.Option(help="Kinds of questions, in turn.")
    ] = "colour,first,last,after,spark",
    needle_frames: Annotated[int, typer.Option(help="Frames of a needle.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the first case.")] = 0,
    size: Annotated[int, typer.Option(help="Height and width of synthetic frames.")] = 48,
    haystack: Annotated[Text, typer.Option(help="A video file to hide the needles in.")] = None,
    case_file: Annotated[
        Text, typer.Option(help="Cases to run (JSON lines) instead of making some.")
    ] = None,
    selector: Annotated[Text, typer.Option(help="Chooses the keyframes. (default: dks)")] = None,
    keyframes: Annotated[Count, typer.Option(help="Keyframes at most. (default: 32)")] = None,
    selector_option: Annotated[
        list[str], typer.Option("--selector-option", "-s", help="NAME=VALUE; see vtc parts.")
    ] = [],  # noqa: B006 - typer copies it
    encoder: Annotated[Text, typer.Option(help="The frame encoder.")] = None,
    model: Annotated[
        Text, typer.Option(help="Score this model's answers, not the selector's keyframes.")
    ] = None,
    merger: Annotated[Text, typer.Option(help="Of the model. (default: dfm)")] = None,
    prompt: Annotated[
        str, typer.Option(help="What the model is asked, with {question} and {choices}.")
    ] = "{question}",
    max_new_tokens: Annotated[int, typer.Option(help="Of the model's answer.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Hide needles in long videos, and draw how often they are found by length and depth."""
    from vtc.cli.show import progress_bars
    from vtc.plugins import registry
    from vtc.wrapped.opening import DEFAULT_ENCODER, pick_device
    from vtc_recipes.evaluation import niah as scoring
    from vtc_recipes.evaluation.heatmap import heat_map
    from vtc_recipes.synthetic import cases as making

    if case_file is not None:
        chosen = making.read_cases(case_file)
    else:
        chosen = making.make_cases(
            _whole_numbers(lengths),
            [k / max(1, depths - 1) for k in range(depths)],
            cases,
            spread=spread,
            needle_frames=needle_frames,
            kinds=kinds.split(","),
            seed=seed,
            size=(size, size),
            haystack=haystack,
        )
    part, place = part_choice("dks", selector, selector_option, keyframes), pick_device(device)
    settings: dict[str, Any]
    if model is None:
        settings = {
            "selector": registry.spec_of(registry.build_part("selector", part.spec())),
            "encoder": encoder or DEFAULT_ENCODER,
        }
        score = scoring.coverage(settings["selector"], settings["encoder"], place)
        title = f"{settings['selector']['name']}: evidence among the keyframes, %"
    else:
        merger_part = part_choice("dfm", merger, [])
        loaded, processor = load_model(
            model, part, merger_part, encoder, place, "auto", trust_remote_code
        )
        score = scoring.accuracy(loaded, processor, prompt, max_new_tokens=max_new_tokens)
        settings = {
            "model": model,
            "selector": registry.spec_of(loaded.vtc.selector),
            "merger": registry.spec_of(loaded.vtc.merger),
            "encoder": loaded.vtc.encoder.name,
            "prompt": prompt,
            "max_new_tokens": max_new_tokens,
        }
        title = "right answers, %"
    with progress_bars(quiet=as_json) as show:
        records = scoring.run(
            chosen, score, out, settings, lambda done, total: show("cases", done, total)
        )
    cells = scoring.cell_means(records)
    heat_map(cells, title).save(out / "heatmap.png")
    if as_json:
        print_json(cells)
        return
    print(title)
    for cell in cells:
        where = f"{cell['Num. Frame']:>7.0f} frames, depth {cell['Frame Depth']:>3.0f} %"
        print(f"{where}: {100 * cell['Score']:>3.0f}")
    print_line(f"results: {out / 'results.json'}, heat map: {out / 'heatmap.png'}")


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"lengths={text!r}: write whole numbers, such as 64,256") from error
