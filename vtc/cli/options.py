"""Options that several commands take, as typer reads them, one by one and in groups."""

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
Merger = Annotated[Text, typer.Option(help="Merges the other frames. (default: dfm)")]
MaxTokens = Annotated[
    Text,
    typer.Option(
        metavar="N|auto",
        help="Visual tokens of a video at most; auto: what fits the model's context.",
    ),
]
Budget = Annotated[Text, typer.Option(help="Shares --max-tokens among the frames. (default: even)")]
BudgetOption = Annotated[list[str], typer.Option("--budget-option", help="NAME=VALUE.")]
Keyframes = Annotated[Count, typer.Option(help="Keyframes at most. (default: 32)")]
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

Fps = Annotated[float, typer.Option(help="Frames to read a second.")]
MaxFrames = Annotated[Count, typer.Option(help="Read at most this many frames, spread evenly.")]
VideoReader = Annotated[str, typer.Option("--reader", help="Decodes the video: pyav or decord.")]
Cache = Annotated[
    Text,
    typer.Option(
        "--cache",
        envvar="VTC_CACHE",
        metavar="DIR",
        help="Keep what is computed of the video in this folder, and read it from there.",
    ),
]
CacheTower = Annotated[
    bool,
    typer.Option(
        "--cache-tower",
        help="Keep the vision tower's output in the cache too; its size is said first.",
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

MaxNewTokens = Annotated[int, typer.Option(min=1, help="The longest answer in tokens.")]
Temperature = Annotated[
    Number, typer.Option(min=0, help="Sample the answer at this temperature; 0: do not sample.")
]
TopP = Annotated[
    Number, typer.Option(min=0, max=1, help="Sample among the likeliest tokens of this share.")
]
NumBeams = Annotated[Count, typer.Option(min=1, help="Search the answer in beams.")]
System = Annotated[Text, typer.Option(help="Instructions that the model reads before the video.")]

AttnImplementation = Annotated[
    Text, typer.Option(help="Of the model: sdpa, eager, flash_attention_2 ...")
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
        "--trust-remote-code", help="Run the Python code that the model's folder or repository has."
    ),
]
Ray = Annotated[
    Text,
    typer.Option(metavar="ADDRESS", help="Work in tasks of Ray: local, auto, or an address."),
]
RayCpus = Annotated[float, typer.Option(min=0, help="Processors of a task of Ray.")]
RayGpus = Annotated[
    Number,
    typer.Option(min=0, help="GPUs of a task of Ray. (default: 1 where the cluster has any)"),
]
Page = Annotated[
    Text, typer.Option(help="Write a page (HTML) that shows when and why to this file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def generation_settings(
    temperature: float | None, top_p: float | None, num_beams: int | None
) -> dict[str, Any]:
    """Return the arguments of ``generate`` that the command line gives.

    Raises:
        ValueError: A temperature of 0, which never samples, stands beside ``top_p``.
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
    """Replace each parameter of a command that is a dataclass by an option for each field.

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
    run.__annotations__ = {each.name: each.annotation for each in parameters}
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
    """The frames that are read of a video."""

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
    """The frames that a model reads of a video."""

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
    """How a model writes its answer."""

    max_new_tokens: MaxNewTokens = 256
    temperature: Temperature = None
    top_p: TopP = None
    num_beams: NumBeams = None
    system: System = None

    def arguments(self) -> dict[str, Any]:
        """Return them as arguments of ``vtc.ask``.

        Raises:
            ValueError: They contradict each other.
        """
        settings = generation_settings(self.temperature, self.top_p, self.num_beams)
        system = {} if self.system is None else {"system": self.system}
        return {"max_new_tokens": self.max_new_tokens, **settings, **system}
