"""``vtc profile``: the costs of each stage of reading a long video."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, terminal
from vtc.interfaces.renamed import warn_renamed

if TYPE_CHECKING:
    from vtc.profiler.setup import Settings
    from vtc.profiler.stages import Profile


def profile(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder, a name on the hub, or a full-size shape without weights: "
            "llava-onevision-7b, llava-onevision-0.5b, qwen2-vl-7b."
        ),
    ],
    frames: Annotated[
        str, typer.Option(help="Lengths of the video in frames, separated by commas.")
    ] = "64,256,1024,8192,10000",
    device: Annotated[
        str, typer.Option(help="meta counts, without weights; cpu, cuda, ... also measure.")
    ] = "meta",
    selector: options.Selector = None,
    merger: options.Merger = None,
    keyframes: options.Keyframes = None,
    max_tokens: Annotated[
        options.Count, typer.Option(help="A budget of visual tokens for each video.")
    ] = None,
    selector_option: options.SelectorOption = [],  # noqa: B006 - typer copies it
    merger_option: options.MergerOption = [],  # noqa: B006
    beside: Annotated[
        list[str],
        typer.Option(
            help="Count another merger too, which merges all frames, such as hico or llama_vid. "
            "Repeat it for several."
        ),
    ] = [],  # noqa: B006
    encoder: options.Encoder = None,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16; auto: float32 on the CPU.")
    ] = "auto",
    video: Annotated[
        options.Text,
        typer.Option(help="A file to read frames from; without it, frames are generated."),
    ] = None,
    size: Annotated[str, typer.Option(help="Width x height of frames without a file.")] = "640x360",
    question: Annotated[
        str, typer.Option(help="The question, if the model runs.")
    ] = "What happens in this video?",
    text_tokens: Annotated[
        int, typer.Option(help="Tokens of the prompt without the video, on meta.")
    ] = 64,
    new_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 16,
    chunk_slices: Annotated[
        int, typer.Option(help="Slices that the vision tower sees at a time.")
    ] = 16,
    chunk_frames: Annotated[options.Count, typer.Option(hidden=True)] = None,
    prefill_chunk: Annotated[
        int, typer.Option(help="Prompt tokens that the language model sees at a time; 0: all.")
    ] = 4096,
    fast_path: Annotated[
        bool,
        typer.Option("--fast-path", help="Merge non-keyframes from the frame encoder's patches."),
    ] = False,
    plots: Annotated[
        options.Text, typer.Option(help="Write plots to this folder (needs the extra \\[plots]).")
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Count, and measure, the costs of each stage of reading a video."""
    lengths, height_width = _lengths(frames), _size(size)
    if chunk_frames is not None:
        warn_renamed("--chunk-frames", "--chunk-slices")
        chunk_slices = chunk_frames
    _check_name(model)
    if device == "meta" and video is not None:
        raise ValueError("--video is read where the model runs: give --device cpu or cuda as well")
    if device != "meta" and beside:
        raise ValueError("--beside compares counts: leave out --device, or give --device meta")
    if plots is not None:
        from vtc.profiler.plots import check_plots

        check_plots(Path(plots))

    from vtc.profiler.setup import Settings

    settings = Settings(
        frames=lengths,
        size=height_width,
        text_tokens=text_tokens,
        question=question,
        new_tokens=new_tokens,
        chunk=chunk_slices,
        prefill_chunk=prefill_chunk or None,
        fast_path=fast_path,
        max_tokens=max_tokens,
    )
    model_options = ModelOptions(
        model=model,
        selector=selector,
        merger=merger,
        keyframes=keyframes,
        selector_option=selector_option,
        merger_option=merger_option,
        encoder=encoder,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    console = terminal(stderr=True, quiet=as_json)
    with console.status("starting") as status:
        if device == "meta":
            costs = _count(model_options, settings, status.update)
            others = [_with_merger(model_options, name) for name in beside]
            counts = [_count(other, settings, status.update) for other in others]
            costs = replace(costs, beside=tuple(counts))
        else:
            costs = _measure(model_options, video, settings, status.update)
    files = []
    if plots is not None:
        from vtc.profiler.plots import write_plots

        files = write_plots(costs, Path(plots))
    if as_json:
        print_json(costs.to_dict())
        return
    _show(costs, files)


def _with_merger(model_options: ModelOptions, merger: str) -> ModelOptions:
    """Return options with another merger, and no keyframes."""
    return replace(
        model_options,
        selector="none",
        merger=merger,
        keyframes=None,
        selector_option=[],
        merger_option=[],
    )


def _count(model_options: ModelOptions, settings: Settings, say: Any) -> Profile:
    import torch

    from vtc.profiler import SHAPE_NAMES
    from vtc.profiler.setup import count_profile
    from vtc.wrapped.opening import DEFAULT_ENCODER, open_shape, read_dtype, saved_parts

    precision, saved = read_dtype(model_options.dtype), {}
    name, encoder = model_options.model, model_options.encoder
    if name in SHAPE_NAMES:
        config, processor = open_shape(f"shape:{name}")
        usual, encoder = torch.bfloat16, encoder or DEFAULT_ENCODER
    else:
        config, processor = open_shape(name, trust_remote_code=model_options.trust_remote_code)
        saved, usual = saved_parts(name), config.dtype or torch.float32
    if saved.get("connector") == "encoder_patches":
        settings = replace(settings, fast_path=True)
    if (encoder := encoder or saved["encoder"]) is None:
        raise ValueError(
            f"{name} was saved with a frame encoder that was an object; name a similar one with "
            "--encoder"
        )
    return count_profile(
        name,
        config,
        processor,
        settings,
        selector=model_options.selector_choice.spec(saved.get("selector")),
        merger=model_options.merger_choice.spec(saved.get("merger")),
        encoder=encoder,
        dtype=usual if precision == "auto" else precision,
        say=say,
    )


def _measure(
    model_options: ModelOptions, video: str | None, settings: Settings, say: Any
) -> Profile:
    from vtc.encoders.device import pick_device
    from vtc.profiler import SHAPE_NAMES
    from vtc.profiler.setup import measure_profile
    from vtc.wrapped.opening import read_dtype

    place, dtype = pick_device(model_options.device), model_options.dtype
    if dtype == "auto":
        dtype = "float32" if place == "cpu" else "bfloat16"
    model_options = replace(model_options, device=place, dtype=dtype)
    if video is not None:
        from vtc.video import VideoSource

        VideoSource(video)  # a wrong file should fail before the model is loaded
    say("loading the model")
    if model_options.model in SHAPE_NAMES:
        model, processor = _random(model_options, read_dtype(dtype))
    else:
        model, processor = model_options.open(quiet=True)
    return measure_profile(model_options.model, model, processor, settings, video=video, say=say)


def _random(model_options: ModelOptions, dtype: Any) -> tuple[Any, Any]:
    """Return a wrapped full-size model and its processor; model and encoder weights are random."""
    import vtc
    from vtc.plugins.registry import build_part
    from vtc.profiler.models import check_room, random_model
    from vtc.profiler.subject import encoder_without_weights
    from vtc.wrapped.opening import DEFAULT_ENCODER, open_shape

    name, place = model_options.model, model_options.device
    config, processor = open_shape(f"shape:{name}")
    check_room(name, config, dtype, place)
    model = random_model(config, dtype, place)
    selector = build_part("selector", model_options.selector_choice.spec())
    encoder: Any = model_options.encoder or DEFAULT_ENCODER
    if model_options.encoder is None and selector.uses_embeddings and selector.encoder is None:
        encoder = encoder_without_weights(DEFAULT_ENCODER, place)
    vtc.wrap(
        model, selector, model_options.merger_choice.spec(), processor=processor, encoder=encoder
    )
    return model, processor


def _show(costs: Profile, files: list[Path]) -> None:
    from vtc.profiler import tables

    console = terminal()
    console.print(tables.headline(costs), style="bold", markup=False)
    for table in (tables.summary(costs), tables.comparison(costs)):
        console.print()
        console.print(table)
    if costs.beside:
        console.print()
        console.print(tables.beside(costs))
    for length in costs.lengths:
        kept = f"{length.frames:,} frames, {length.keyframes} keyframes"
        console.print(f"\n{kept}", style="bold", markup=False)
        console.print(tables.stages(costs, length))
    console.print()
    for text in (tables.conventions(costs), *tables.fast_path(costs), *costs.notes):
        console.print(text, markup=False)
    for file in files:
        console.print(f"plot: {file}", markup=False)


def _check_name(name: str) -> None:
    """Check that a name is a folder, has the form of a name on the hub, or is a shape."""
    from vtc.plugins.discovery import suggestion
    from vtc.plugins.registry import model_function
    from vtc.profiler import SHAPE_NAMES

    if name in SHAPE_NAMES or os.path.isdir(name) or "/" in name:
        return
    if model_function(name.partition(":")[0]) is not None:
        return
    raise ValueError(
        f"model {name!r} is neither a folder, nor a name on the hub (OWNER/NAME), nor a shape "
        f"({', '.join(SHAPE_NAMES)}).{suggestion(name, list(SHAPE_NAMES))}"
    )


def _lengths(frames: str) -> list[int]:
    try:
        return [int(word) for word in frames.split(",")]
    except ValueError as error:
        raise ValueError(
            f"expected --frames to be whole numbers with commas, such as 64,1024, got {frames!r}"
        ) from error


def _size(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(
            f"expected --size to be WIDTHxHEIGHT in pixels, such as 640x360, got {size!r}"
        )
    return int(height), int(width)
