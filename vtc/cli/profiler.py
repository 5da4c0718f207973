"""``vtc profile``: what each stage of reading a long video costs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtc.cli import options
from vtc.cli.models import ModelOptions
from vtc.cli.output import print_json, terminal

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
        str, typer.Option(help="Lengths of the video, with commas.")
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
    encoder: options.Encoder = None,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16; auto: float32 on the CPU.")
    ] = "auto",
    video: Annotated[
        options.Text, typer.Option(help="A file to read frames from; without it they are drawn.")
    ] = None,
    size: Annotated[str, typer.Option(help="Width x height of frames without a file.")] = "640x360",
    question: Annotated[
        str, typer.Option(help="What is asked where the model runs.")
    ] = "What happens in this video?",
    text_tokens: Annotated[
        int, typer.Option(help="Tokens of the prompt without the video, on meta.")
    ] = 64,
    new_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 16,
    chunk_frames: Annotated[
        int, typer.Option(help="Slices that the vision tower sees at a time.")
    ] = 16,
    prefill_chunk: Annotated[
        int, typer.Option(help="Prompt tokens that the language model sees at a time; 0: all.")
    ] = 4096,
    fast_path: Annotated[
        bool,
        typer.Option("--fast-path", help="Merge other frames from the frame encoder's patches."),
    ] = False,
    plots: Annotated[
        options.Text, typer.Option(help="Write plots to this folder (needs the extra \\[plots]).")
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
) -> None:
    """Count, and measure, what each stage of reading a video costs."""
    lengths, height_width = _lengths(frames), _size(size)
    _check_name(model)
    if device == "meta" and video is not None:
        raise ValueError("--video is read where the model runs: give --device cpu or cuda as well")
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
        chunk=chunk_frames,
        prefill_chunk=prefill_chunk or None,
        fast_path=fast_path,
        max_tokens=max_tokens,
    )
    wrapped = ModelOptions(
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
            found = _count(wrapped, settings, status.update)
        else:
            found = _measure(wrapped, video, settings, status.update)
    files = []
    if plots is not None:
        from vtc.profiler.plots import write_plots

        files = write_plots(found, Path(plots))
    if as_json:
        print_json(found.to_dict())
        return
    _show(found, files)


def _count(wrapped: ModelOptions, settings: Settings, say: Any) -> Profile:
    import torch

    from vtc.profiler import SHAPE_NAMES
    from vtc.profiler.setup import count_profile
    from vtc.wrapped.opening import DEFAULT_ENCODER, open_shape, read_dtype, saved_parts

    precision, saved = read_dtype(wrapped.dtype), {}
    name, encoder = wrapped.model, wrapped.encoder
    if name in SHAPE_NAMES:
        config, processor = open_shape(f"shape:{name}")
        usual, encoder = torch.bfloat16, encoder or DEFAULT_ENCODER
    else:
        config, processor = open_shape(name, trust_remote_code=wrapped.trust_remote_code)
        saved, usual = saved_parts(name), config.dtype or torch.float32
    if saved.get("connector") == "encoder_patches":
        settings = replace(settings, fast_path=True)
    if (encoder := encoder or saved["encoder"]) is None:
        raise ValueError(
            f"{name} was saved with a frame encoder that was an object; name one like it with "
            "--encoder"
        )
    return count_profile(
        name,
        config,
        processor,
        settings,
        selector=wrapped.selector_choice.spec(saved.get("selector")),
        merger=wrapped.merger_choice.spec(saved.get("merger")),
        encoder=encoder,
        dtype=usual if precision == "auto" else precision,
        say=say,
    )


def _measure(wrapped: ModelOptions, video: str | None, settings: Settings, say: Any) -> Profile:
    from vtc.profiler import SHAPE_NAMES
    from vtc.profiler.setup import measure_profile
    from vtc.wrapped.opening import pick_device, read_dtype

    place, dtype = pick_device(wrapped.device), wrapped.dtype
    if dtype == "auto":
        dtype = "float32" if place == "cpu" else "bfloat16"
    wrapped = replace(wrapped, device=place, dtype=dtype)
    if video is not None:
        from vtc.video import VideoSource

        VideoSource(video)  # a wrong file should not wait for a model to load
    say("loading the model")
    if wrapped.model in SHAPE_NAMES:
        model, processor = _random(wrapped, read_dtype(dtype))
    else:
        model, processor = wrapped.open(quiet=True)
    return measure_profile(wrapped.model, model, processor, settings, video=video, say=say)


def _random(wrapped: ModelOptions, dtype: Any) -> tuple[Any, Any]:
    """A wrapped full-size model with random weights, and a frame encoder with such."""
    import vtc
    from vtc.plugins.registry import build_part
    from vtc.profiler.models import check_room, random_model
    from vtc.profiler.subject import encoder_without_weights
    from vtc.wrapped.opening import DEFAULT_ENCODER, open_shape

    name, place = wrapped.model, wrapped.device
    config, processor = open_shape(f"shape:{name}")
    check_room(name, config, dtype, place)
    model = random_model(config, dtype, place)
    selector = build_part("selector", wrapped.selector_choice.spec())
    looking: Any = wrapped.encoder or DEFAULT_ENCODER
    if wrapped.encoder is None and selector.uses_embeddings and selector.encoder is None:
        looking = encoder_without_weights(DEFAULT_ENCODER, place)
    vtc.wrap(model, selector, wrapped.merger_choice.spec(), processor=processor, encoder=looking)
    return model, processor


def _show(found: Profile, files: list[Path]) -> None:
    from vtc.profiler import tables

    console = terminal()
    console.print(tables.headline(found), style="bold", markup=False)
    for table in (tables.summary(found), tables.comparison(found)):
        console.print()
        console.print(table)
    for each in found.lengths:
        kept = f"{each.frames:,} frames, {each.keyframes} keyframes"
        console.print(f"\n{kept}", style="bold", markup=False)
        console.print(tables.stages(found, each))
    console.print()
    for text in (tables.conventions(found), *tables.fast_path(found), *found.notes):
        console.print(text, markup=False)
    for file in files:
        console.print(f"plot: {file}", markup=False)


def _check_name(name: str) -> None:
    """Refuse what is neither a folder, nor of the form of a hub's name, nor a shape."""
    from vtc.plugins.discovery import suggestion
    from vtc.plugins.registry import model_function
    from vtc.profiler import SHAPE_NAMES

    if name in SHAPE_NAMES or os.path.isdir(name) or "/" in name:
        return
    if model_function(name.partition(":")[0]) is not None:
        return
    raise ValueError(
        f"model {name!r} is neither a folder here, nor a name on the hub (OWNER/NAME), nor a shape "
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
