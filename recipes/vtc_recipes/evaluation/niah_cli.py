"""``vtc niah``: needles in video haystacks, scored by length and depth."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions, part_choice
from vtc.cli.output import print_json, print_line, printable

_MAKING = (
    "lengths",
    "depths",
    "spread",
    "cases",
    "kinds",
    "needle_frames",
    "seed",
    "size",
    "haystack",
)
"""The options that make cases."""
_SHOWN = 5
"""Maximum number of distinct warnings that are printed."""


def niah(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the results; a run in it is resumed.")],
    lengths: Annotated[str, typer.Option(help="Numbers of frames per video.")] = "64,256,1024",
    depths: Annotated[int, typer.Option(min=1, help="Number of evenly spaced depths, 0 to 1.")] = 5,
    spread: Annotated[float, typer.Option(help="Maximum deviation from a depth.")] = 0.1,
    cases: Annotated[int, typer.Option(min=1, help="Cases per length and depth.")] = 20,
    kinds: Annotated[
        str, typer.Option(help="Kinds of questions, in turn.")
    ] = "colour,first,last,after,spark",
    needle_frames: Annotated[int, typer.Option(help="Number of frames per needle.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the first case.")] = 0,
    size: Annotated[int, typer.Option(help="Height and width of synthetic frames.")] = 48,
    haystack: Annotated[options.Text, typer.Option(help="A video file to hide needles in.")] = None,
    case_file: Annotated[
        options.Text, typer.Option(help="File of cases (JSON lines) to run instead of new ones.")
    ] = None,
    selector: options.Selector = None,
    keyframes: options.Keyframes = None,
    selector_option: options.SelectorOption = [],  # noqa: B006 - typer copies it
    encoder: options.Encoder = None,
    model: Annotated[
        options.Text,
        typer.Option(help="Score this model's answers instead of the selector's keyframes."),
    ] = None,
    merger: Annotated[
        options.Text, typer.Option(help="Merger of the model. (default: dfm)")
    ] = None,
    max_tokens: options.MaxTokens = None,
    budget: options.Budget = None,
    budget_option: options.BudgetOption = [],  # noqa: B006 - typer copies it
    prompt: Annotated[
        str, typer.Option(help="Prompt for the model, with {question} and {choices}.")
    ] = "{question}",
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer.")] = 16,
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Hide needles in long videos, and draw a heat map of the scores by length and depth."""
    from vtc.cli.show import progress_bars
    from vtc.encoders.device import pick_device
    from vtc.plugins import registry
    from vtc.wrapped.opening import DEFAULT_ENCODER
    from vtc_recipes.evaluation import niah as scoring
    from vtc_recipes.evaluation.heatmap import heat_map
    from vtc_recipes.evaluation.resuming import make_folder, model_files, resumable
    from vtc_recipes.synthetic import cases as making

    of_model = {"--merger": merger, "--max-tokens": max_tokens, "--budget": budget}
    given = [name for name, value in of_model.items() if value is not None]
    given += ["--budget-option"] * bool(budget_option)
    if model is None and given:
        raise ValueError(f"{given[0]} is for a model's answers; give --model too")
    make_folder(out)
    if case_file is not None:
        _refuse_with_case_file(context)
        run_cases = making.read_cases(case_file)
    else:
        run_cases = making.make_cases(
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
            "encoder_files": model_files(encoder or DEFAULT_ENCODER),
        }
        score = scoring.coverage(settings["selector"], settings["encoder"], place)
        title = f"{settings['selector']['name']}: evidence among the keyframes, %"
    else:
        loaded, processor = ModelOptions(
            model=model,
            selector=selector,
            merger=merger,
            keyframes=keyframes,
            encoder=encoder,
            selector_option=selector_option,
            max_tokens=max_tokens,
            budget=budget,
            budget_option=budget_option,
            device=place,
            trust_remote_code=trust_remote_code,
        ).open(quiet=as_json)
        score = scoring.accuracy(loaded, processor, prompt, max_new_tokens=max_new_tokens)
        settings = {
            "model": model,
            "files": model_files(model),
            "selector": registry.spec_of(loaded.vtc.selector),
            "merger": registry.spec_of(loaded.vtc.merger),
            "encoder": loaded.vtc.encoder.name,
            "encoder_files": model_files(loaded.vtc.encoder.name),
            "prompt": prompt,
            "max_new_tokens": max_new_tokens,
        }
        if loaded.vtc.budget is not None:
            settings["budget"] = registry.spec_of(loaded.vtc.budget)
        title = "right answers, %"
    with resumable(out), progress_bars(quiet=as_json) as show:
        records = scoring.run(
            run_cases, score, out, settings, lambda done, total: show("cases", done, total)
        )
    cells = scoring.cell_means(records)
    heat_map(cells, title).save(out / "heatmap.png")
    _show_warnings(records)
    if as_json:
        print_json(cells)
        return
    print(title)
    for cell in cells:
        where = f"{cell['Num. Frame']:>7.0f} frames, depth {cell['Frame Depth']:>3.0f} %"
        print(f"{where}: {100 * cell['Score']:>3.0f}")
    print_line(f"results: {out / 'results.json'}, heat map: {out / 'heatmap.png'}")


def _refuse_with_case_file(context: typer.Context) -> None:
    """Refuse the options that make cases; a file has its own.

    Raises:
        ValueError: The command line has one of them.
    """
    for name in _MAKING:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise ValueError(f"give either --case-file or --{option}: the file's cases are asked")


def _show_warnings(records: Sequence[Mapping[str, Any]]) -> None:
    """Print each distinct warning of the records with its number of cases, on standard error."""
    counts = Counter(warning for record in records for warning in record.get("warnings", ()))
    for warning, count in counts.most_common(_SHOWN):
        print(printable(f"note, {count} of {len(records)} cases: {warning}"), file=sys.stderr)
    if len(counts) > _SHOWN:
        left = len(counts) - _SHOWN
        print(f"note: {left} other warnings are in records.jsonl", file=sys.stderr)


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"expected lengths to be integers such as 64,256, got {text!r}") from error
