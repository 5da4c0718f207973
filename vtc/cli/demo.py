"""``vtc demo``: the whole path on a video file, with a tiny model made on the spot."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from vtc.cli.ask import ask

Text = Optional[str]  # noqa: UP007, UP045 - typer evaluates it, and old ones cannot read X | None


def demo(
    video: Annotated[Text, typer.Option(help="A video file; without one, it is made.")] = None,
    question: Annotated[str, typer.Option(help="What to ask.")] = "Where is the red square?",
    folder: Annotated[Path, typer.Option(help="Where the demo's files go.")] = Path("demo"),
    keyframes: Annotated[int, typer.Option(help="Keyframes at most.")] = 8,
) -> None:
    """Run everything once: a video file, a tiny model on disk, wrap, ask, report.

    The model is a LLaVA-OneVision with random weights, so its answer means nothing; everything
    before the answer is the real thing.
    """
    from vtc.video import VideoSource

    console = Console(highlight=False)
    if video is not None:
        VideoSource(video)  # a wrong file fails here, in a second
    folder.mkdir(parents=True, exist_ok=True)
    if video is None:
        from vtc.testing.videos import moving_squares, write_video

        video = str(folder / "squares.mp4")
        write_video(video, moving_squares())
        console.print(f"made {video}: a minute of coloured squares", markup=False)
    model, encoder = folder / "tiny-llava-onevision", folder / "tiny-clip"
    _make_models(model, encoder)
    console.print(
        f"made {model} and {encoder}: real Hugging Face classes, tiny, with random weights",
        markup=False,
    )
    options = ["--model", str(model), "--encoder", str(encoder), "--keyframes", str(keyframes)]
    command = ["vtc", "ask", video, question, *options, "--max-new-tokens", "24"]
    console.print(f"\n$ {shlex.join(command)}", style="bold", markup=False, soft_wrap=True)
    ask(
        video,
        question,
        model=str(model),
        encoder=str(encoder),
        keyframes=keyframes,
        max_new_tokens=24,
    )
    console.print(
        "\nThe weights are random, so the answer is noise. With a trained model:\n"
        f"$ vtc ask {shlex.quote(video)} {shlex.quote(question)} "
        "--model llava-hf/llava-onevision-qwen2-7b-ov-hf",
        markup=False,
        soft_wrap=True,
    )


def _make_models(model_folder: Path, encoder_folder: Path) -> None:
    import transformers

    from vtc.testing import save_tiny_clip, tiny

    transformers.utils.logging.disable_progress_bar()
    model, processor = tiny("llava_onevision")
    model.save_pretrained(model_folder)
    processor.save_pretrained(model_folder)
    save_tiny_clip(encoder_folder)
