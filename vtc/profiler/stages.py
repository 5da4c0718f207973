"""What a profile says: one number of each kind for each stage of reading a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vtc.profiler.counting import Cost

DECODE = "video decoding"
ENCODER = "frame encoder"
SELECTION = "selection"
KEYFRAMES = "vision tower (keyframes)"
OTHERS = "vision tower (other frames)"
CONNECTOR = "connector (other frames)"
MERGING = "merging"
PREFILL = "prefill"
TOKENS = "token decoding"
STAGES = (DECODE, ENCODER, SELECTION, KEYFRAMES, OTHERS, MERGING, PREFILL, TOKENS)
"""In the order of the work; all but the last come before the first token. On the fast path
`CONNECTOR` stands in the place of `OTHERS`."""


@dataclass(frozen=True)
class StageProfile:
    """One stage.

    Attributes:
        name: One of `STAGES`, or of the stock model.
        tokens: What it hands on: frames, embeddings, keyframes, patches, merged tokens, the
            prompt's tokens, or new tokens.
        flops: All of them, see `vtc.profiler.counting.Cost`; selector and merger as
            `vtc.testing.MultiplyAccumulates` counts them, twice.
        linear_macs: MACs of Linear and Conv layers in the vision-language model alone, which is
            what Table 5 of ViLAMP calls FLOPs; None for stages that it leaves out.
        bytes_moved: Read and written, without caches and fusion.
        peak_memory: Bytes above the weights while it runs, counted: what is alive from earlier
            stages, and the most that the stage adds to it.
        seconds: As measured, or None.
        measured_memory: Bytes above the weights while it runs, as measured, or None.
    """

    name: str
    tokens: int
    flops: float
    linear_macs: float | None
    bytes_moved: float
    peak_memory: float
    seconds: float | None = None
    measured_memory: float | None = None

    @property
    def macs(self) -> float:
        """All multiply-accumulates."""
        return self.flops / 2

    @property
    def rate(self) -> float | None:
        """FLOPs a second; None where there is nothing to count, or nothing was measured."""
        return self.flops / self.seconds if self.flops and self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "macs": self.macs, "rate": self.rate}


def stage(
    name: str, tokens: int, cost: Cost, *, held: float = 0.0, in_table_5: bool = False
) -> StageProfile:
    """A stage from its cost and the bytes that are alive from before."""
    layers = cost.linear_macs if in_table_5 else None
    peak = held + cost.peak_memory
    return StageProfile(name, tokens, cost.flops, layers, cost.bytes_moved, peak)


def total(name: str, stages: Sequence[StageProfile]) -> StageProfile:
    """All of them, one after another; tokens are those of the last."""
    timed = [stage.seconds for stage in stages if stage.seconds is not None]
    measured = [s.measured_memory for s in stages if s.measured_memory is not None]
    return StageProfile(
        name=name,
        tokens=stages[-1].tokens,
        flops=sum(stage.flops for stage in stages),
        linear_macs=sum(stage.linear_macs or 0.0 for stage in stages),
        bytes_moved=sum(stage.bytes_moved for stage in stages),
        peak_memory=max(stage.peak_memory for stage in stages),
        seconds=sum(timed) if timed else None,
        measured_memory=max(measured, default=None),
    )


@dataclass(frozen=True)
class LengthProfile:
    """Reading so many frames.

    Attributes:
        frames: N.
        keyframes: Slices that keep all their tokens.
        stages: One for each of `STAGES`.
        fast_path: Everything up to the first new token where other frames are merged from the
            frame encoder's patches; None where they are anyway, or where it gives none.
        stock: The bare model: its vision tower on all frames, and its prefill.
        first_token_seconds: From the opened file to the first new token, as measured, or None.
    """

    frames: int
    keyframes: int
    stages: tuple[StageProfile, ...]
    stock: tuple[StageProfile, ...]
    fast_path: StageProfile | None = None
    first_token_seconds: float | None = None

    @property
    def first_token(self) -> StageProfile:
        """Everything up to the first new token."""
        return total("to the first token", self.stages[:-1])

    @property
    def stock_first_token(self) -> StageProfile:
        """The same of the bare model."""
        return total("stock model", self.stock)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the totals."""
        return {
            "frames": self.frames,
            "keyframes": self.keyframes,
            "stages": [stage.to_dict() for stage in self.stages],
            "first_token": self.first_token.to_dict(),
            "first_token_seconds": self.first_token_seconds,
            "fast_path": None if self.fast_path is None else self.fast_path.to_dict(),
            "stock": [stage.to_dict() for stage in self.stock],
            "stock_first_token": self.stock_first_token.to_dict(),
        }


@dataclass(frozen=True)
class Profile:
    """A model, and what it costs at each length.

    Attributes:
        model: As it was named.
        selector, merger: The parts and their options.
        encoder: The frame encoder.
        device: What it was measured on; ``meta`` for counts alone.
        dtype: Of the weights.
        weights: Bytes of the model's parameters; the frame encoder's are `encoder_weights`.
        lengths: By the number of frames.
        settings: What was read and how: sizes, tokens and chunks.
        libraries: Versions.
        matrix_rate: FLOPs a second of a large matrix product there, as measured, or None.
        notes: What a reader must know.
    """

    model: str
    selector: dict[str, Any]
    merger: dict[str, Any]
    encoder: str
    device: str
    dtype: str
    weights: int
    encoder_weights: int
    lengths: tuple[LengthProfile, ...]
    settings: dict[str, Any]
    libraries: dict[str, str]
    matrix_rate: float | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**own, "lengths": [each.to_dict() for each in self.lengths]}
