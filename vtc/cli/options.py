"""Options that several commands share, one by one and in groups."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from vtc.video import VideoSource

T = TypeVar("T")
Text = Optional[str]  # noqa: UP007, UP045 - typer evaluates it, and old ones cannot read X | None
Count = Optional[int]  # noqa: UP007, UP045
Number = Optional[float]  # noqa: UP007, UP045

DEFAULT_MODEL = "llava-hf/llava-onevision-qwen2-7b-ov-hf"

Model = Annotated[str, typer.Option(help="A folder, or the name of a model on the hub.")]
Selector = Annotated[Text, typer.Option(help="Chooses the keyframes. (default: dks)")]
Merger = Annotated[Text, typer.Option(help="Merges the non-keyframes. (default: dfm)")]
MaxTokens = Annotated[
    Text,
    typer.Option(
        metavar="N|auto",
        help="The maximum visual tokens of a video; auto: as many as fit the model's context.",
    ),
]
Budget = Annotated[Text, typer.Option(help="Shares --max-tokens among the frames. (default: even)")]
BudgetOption = Annotated[list[str], typer.Option("--budget-option", help="NAME=VALUE.")]
Keyframes = Annotated[Count, typer.Option(help="The maximum number of keyframes. (default: 32)")]
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

Fps = Annotated[float, typer.Option(help="Frames to read per second.")]
MaxFrames = Annotated[Count, typer.Option(help="Read at most this many frames, spread evenly.")]
VideoReader = Annotated[str, typer.Option("--reader", help="Decodes the video: pyav or decord.")]
Cache = Annotated[
    Text,
    typer.Option(
        "--cache",
        envvar="VTC_CACHE",
        metavar="DIR",
        help="Cache what is computed for the video in this folder.",
    ),
]
CacheTower = Annotated[
    bool,
    typer.Option(
        "--cache-tower",
        help="Cache the vision tower's output too; its size is printed first.",
    ),
]
CacheFolder = Annotated[
    Text,
    typer.Option(
        "--cache",
        envvar="VTC_CACHE",
        metavar="DIR",
        help="The folder of the cache. (default: ~/.cache/vtc)",
    ),
]

MaxNewTokens = Annotated[int, typer.Option(min=1, help="The maximum tokens of an answer.")]
Temperature = Annotated[
    Number, typer.Option(min=0, help="Sample the answer at this temperature; 0: do not sample.")
]
TopP = Annotated[
    Number, typer.Option(min=0, max=1, help="Sample from the likeliest tokens up to this share.")
]
NumBeams = Annotated[Count, typer.Option(min=1, help="The number of beams of beam search.")]
System = Annotated[Text, typer.Option(help="Instructions that the model reads before the video.")]

AttnImplementation = Annotated[
    Text, typer.Option(help="The model's attention: sdpa, eager, flash_attention_2 ...")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
DeviceMap = Annotated[
    Text, typer.Option(help="Spread the model over devices: auto, balanced, sequential ...")
]
LoadIn8Bit = Annotated[
    bool, typer.Option("--load-in-8bit", help="Quantize the weights (needs bitsandbytes).")
]
LoadIn4Bit = Annotated[
    bool, typer.Option("--load-in-4bit", help="Quantize the weights (needs bitsandbytes).")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code from the model's folder or repository."
    ),
]
Ray = Annotated[
    Text,
    typer.Option(metavar="ADDRESS", help="Run as Ray tasks: local, auto, or an address."),
]
RayCpus = Annotated[float, typer.Option(min=0, help="Processors of a Ray task.")]
RayGpus = Annotated[
    Number,
    typer.Option(min=0, help="GPUs of a Ray task. (default: 1 if the cluster has any)"),
]
Page = Annotated[
    Text,
    typer.Option(
        help="Write an HTML page of the keyframes, with their times and relevance, to this file."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def generation_settings(
    temperature: float | None, top_p: float | None, num_beams: int | None
) -> dict[str, Any]:
    """Return the arguments of ``generate`` from the command line.

    Raises:
        ValueError: The temperature is 0, which never samples, and ``top_p`` is given.
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


def grouped(command: Callable[..., T]) -> Callable[..., T]:
    """Replace each dataclass parameter of a command by one option per field.

    >>> @grouped
    ... def ask(video: str, frames: FrameOptions) -> None: ...  # has --fps ...
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if is_dataclass(kind):
            groups[name] = kind
            parameters += _options_of(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**values: Any) -> T:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        return command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Options for reading the frames of a video."""

    fps: Fps = 1.0
    max_frames: MaxFrames = None
    reader: VideoReader = "pyav"
    cache: Cache = None

    def open(self, video: str) -> VideoSource:
        """Open a video file.

        Raises:
            VideoError: It cannot be read.
        """
        from vtc.video import VideoSource

        return VideoSource(video, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class ModelFrameOptions(FrameOptions):
    """Options for reading the frames of a video for a model."""

    cache_tower: CacheTower = False

    def require_cache(self) -> None:
        """Refuse ``--cache-tower`` without a cache.

        Raises:
            ValueError: There is no cache.
        """
        if self.cache_tower and self.cache is None:
            raise ValueError("expected --cache DIR with --cache-tower, got none")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """Options for generating an answer."""

    max_new_tokens: MaxNewTokens = 256
    temperature: Temperature = None
    top_p: TopP = None
    num_beams: NumBeams = None
    system: System = None

    def arguments(self) -> dict[str, Any]:
        """Return the options as arguments of ``vtc.ask``.

        Raises:
            ValueError: Options contradict each other.
        """
        settings = generation_settings(self.temperature, self.top_p, self.num_beams)
        system = {} if self.system is None else {"system": self.system}
        return {"max_new_tokens": self.max_new_tokens, **settings, **system}
