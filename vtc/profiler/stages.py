"""The contents of a profile: counts and measurements for each stage of reading a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vtc.profiler.counting import Cost

DECODE = "video decoding"
ENCODER = "frame encoder"
SELECTION = "selection"
KEYFRAMES = "vision tower (keyframes)"
OTHERS = "vision tower (non-keyframes)"
CONNECTOR = "connector (non-keyframes)"
MERGING = "merging"
PREFILL = "prefill"
TOKENS = "token decoding"
STAGES = (DECODE, ENCODER, SELECTION, KEYFRAMES, OTHERS, MERGING, PREFILL, TOKENS)
"""The stages in order; all but the last come before the first token. On the fast path `CONNECTOR`
replaces `OTHERS`."""


@dataclass(frozen=True)
class StageProfile:
    """The costs of one stage.

    Attributes:
        name: One of `STAGES`, or a stage of the stock model.
        tokens: The number of its results: frames, embeddings, keyframes, patches, merged tokens,
            prompt tokens, or new tokens.
        flops: All FLOPs, see `vtc.profiler.counting.Cost`; for selector and merger twice the count
            of `vtc.testing.MultiplyAccumulates`.
        linear_macs: MACs of Linear and Conv layers in the vision-language model, called FLOPs in
            Table 5 of ViLAMP; None for stages that the table leaves out.
        bytes_moved: Bytes read and written, without caches and fusion.
        peak_memory: Counted bytes above the weights: those alive from earlier stages plus the peak
            of the stage itself.
        seconds: Measured seconds, or None.
        measured_memory: Measured bytes above the weights, or None.
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
        """FLOPs per second; None without FLOPs or measured seconds."""
        return self.flops / self.seconds if self.flops and self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "macs": self.macs, "rate": self.rate}


def stage(
    name: str, tokens: int, cost: Cost, *, held: float = 0.0, in_table_5: bool = False
) -> StageProfile:
    """Return a stage from its cost and the bytes alive from earlier stages."""
    layers = cost.linear_macs if in_table_5 else None
    peak = held + cost.peak_memory
    return StageProfile(name, tokens, cost.flops, layers, cost.bytes_moved, peak)


def total(name: str, stages: Sequence[StageProfile]) -> StageProfile:
    """Return the sum of consecutive stages; ``tokens`` is that of the last stage."""
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
    """The costs of one length.

    Attributes:
        frames: N.
        keyframes: The number of slices that keep all their tokens.
        stages: One for each of `STAGES`.
        fast_path: Everything up to the first new token on the fast path; None if the stages use it
            already, or the frame encoder has no patches.
        stock: The stock model: its vision tower on all frames, and its prefill.
        first_token_seconds: Measured seconds from opening the file to the first new token, or
            None.
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
        """The same for the stock model."""
        return total("stock model", self.stock)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the totals."""
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
    """The costs of a model at each length.

    Attributes:
        model: The name of the model.
        selector, merger: The parts and their options.
        encoder: The frame encoder.
        device: The device of the measurements; ``meta`` for counts alone.
        dtype: The dtype of the weights.
        weights: Bytes of the model's parameters.
        encoder_weights: Bytes of the frame encoder's parameters.
        lengths: One entry for each number of frames.
        settings: The sizes, numbers of tokens and chunk sizes.
        libraries: Versions by distribution.
        matrix_rate: Measured FLOPs per second of a large matrix product, or None.
        notes: Remarks for the reader.
        beside: The same model with other mergers, see ``vtc profile --beside``.
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
    beside: tuple[Profile, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **values,
            "lengths": [length.to_dict() for length in self.lengths],
            "beside": [profile.to_dict() for profile in self.beside],
        }
