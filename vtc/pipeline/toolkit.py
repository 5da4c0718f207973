"""The module ``model.vtc`` that ``vtc.wrap`` adds to a model: its parts and options."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import nn

from vtc.encoders.lazy import LazyEncoder
from vtc.interfaces.part import require
from vtc.interfaces.renamed import warn_renamed
from vtc.interfaces.token_merger import takes_text_embedding
from vtc.pipeline.budget import require_mergeable
from vtc.pipeline.connector import Connector, PatchConnector
from vtc.pipeline.gate import Gate
from vtc.pipeline.modules import active_module, input_device
from vtc.plugins import registry
from vtc.plugins.options import config_values, make, with_new_names

if TYPE_CHECKING:
    from vtc.interfaces.frame_selector import FrameSelector
    from vtc.interfaces.token_budget import TokenBudget
    from vtc.interfaces.token_merger import TokenMerger
    from vtc.interfaces.video_adapter import VideoAdapter
    from vtc.pipeline.report import Progress, Report

ConnectorKind = Literal["stock", "separate", "encoder_patches"]

_latest = threading.local()
"""The latest report of each toolkit in this thread, as ``_latest.reports``."""


class Toolkit(nn.Module):
    """The parts that compress the videos of one model.

    Calls read it and never write to it.

    Attributes:
        merger: The token merger; its parameters train and are saved with the model.
        connector: The projector of merged frames, see `separate_connector` and
            `merge_encoder_patches`; None if they go through the stock projector. It trains and is
            saved with the model.
        selector, budget, adapter, encoder, processor: The other parts. Mergers take the query from
            ``encoder``; a selector may have another, `selector_encoder`.
        chunk_slices: Slices that the vision tower encodes at a time. It affects memory and speed,
            never the result.
        prefill_chunk: Tokens of the shortened prompt that the language model reads at a time in
            ``generate``, if that saves memory; None for all of them. It affects memory and speed,
            and results by rounding.
        heat_frames: The number of non-keyframes per video whose merger weights the report's page
            shows.
        progress: Called with (stage, done, total) while frames are read; None for no calls.
        gate: Counts the running calls; while one runs, changes to the toolkit raise.
    """

    def __init__(
        self,
        selector: FrameSelector,
        merger: TokenMerger,
        adapter: VideoAdapter,
        encoder: LazyEncoder,
        processor: Any,
    ) -> None:
        super().__init__()
        self.selector = selector
        self.merger = merger
        self.connector: nn.Module | None = None
        self._budget: TokenBudget | None = None
        self._model: Callable[[], Any] = _no_model
        self.adapter = adapter
        self.encoder = encoder
        self.processor = processor
        self.chunk_slices = 16
        self.prefill_chunk = 4096
        self.merger_is_new = True
        self._new_sums: dict[str, tuple[float, ...]] = {}
        self.heat_frames = 4
        hook: Any = self.register_state_dict_pre_hook
        hook(_warn_of_lora_on_drawn)
        self.progress: Progress | None = None
        self._own_encoder: LazyEncoder | None = None
        self.gate = Gate()

    @property
    def budget(self) -> TokenBudget | None:
        """The token budget, see ``vtc.wrap``; None without a limit.

        It can be set to anything that ``vtc.wrap`` takes.
        """
        return self._budget

    @budget.setter
    def budget(self, spec: object) -> None:
        budget = registry.build_budget(spec)
        if budget is not None:
            require_mergeable(active_module(self.merger), f"merger {self.name_of(self.merger)!r}")
        self._budget = budget

    @property
    def chunk_slices(self) -> int:
        """Slices that the vision tower encodes at a time, at least 1."""
        return self._chunk_slices

    @chunk_slices.setter
    def chunk_slices(self, slices: int) -> None:
        ok = type(slices) is int and slices >= 1
        require(ok, "chunk_slices", slices, "a whole number of at least 1")
        self._chunk_slices = slices

    @property
    def chunk_frames(self) -> int:
        """The old name of `chunk_slices`."""
        warn_renamed("model.vtc.chunk_frames", "model.vtc.chunk_slices")
        return self.chunk_slices

    @chunk_frames.setter
    def chunk_frames(self, slices: int) -> None:
        warn_renamed("model.vtc.chunk_frames", "model.vtc.chunk_slices")
        self.chunk_slices = slices

    @property
    def prefill_chunk(self) -> int | None:
        """Tokens of a prompt that the language model reads at a time, at least 1; None for all."""
        return self._prefill_chunk

    @prefill_chunk.setter
    def prefill_chunk(self, tokens: int | None) -> None:
        ok = tokens is None or (type(tokens) is int and tokens >= 1)
        require(ok, "prefill_chunk", tokens, "a whole number of at least 1, or None")
        self._prefill_chunk = tokens

    @property
    def report(self) -> Report | None:
        """The report of this thread's latest call; None before the first."""
        reports = getattr(_latest, "reports", None)
        return None if reports is None else reports.get(self)

    def note_report(self, report: Report | None) -> None:
        """Set the report of this thread's latest call; None clears it."""
        if not hasattr(_latest, "reports"):
            _latest.reports = weakref.WeakKeyDictionary()
        _latest.reports[self] = report

    @property
    def selector_encoder(self) -> LazyEncoder:
        """The frame encoder of the selector: its own, else ``encoder``.

        Raises:
            ValueError: The selector names an unknown encoder.
        """
        name = self.selector.encoder
        if name is None or name == self.encoder.name:
            return self.encoder
        with self.gate.stock_state:  # concurrent calls share one encoder
            encoder = self._own_encoder
            if encoder is None or encoder.name != name:
                encoder = self._own_encoder = LazyEncoder(name)
            return encoder

    def encoders_on(self, device: torch.device) -> tuple[LazyEncoder, LazyEncoder]:
        """Return the mergers' and the selector's frame encoder, to run on a device unless set.

        This does not load them.
        """
        encoders = self.encoder, self.selector_encoder
        for encoder in encoders:
            encoder.follow(device)
        return encoders

    def replace_encoders(self, change: Callable[[LazyEncoder], LazyEncoder]) -> None:
        """Replace the frame encoders, for instance by encoders that cache their embeddings.

        Args:
            change: Called once with each encoder in use; returns its replacement.
        """
        with self.gate.change("replace the frame encoders"):
            encoder = self.selector_encoder
            self._own_encoder = None if encoder is self.encoder else change(encoder)
            self.encoder = change(self.encoder)

    def attach(self, model: Any) -> None:
        """Keep a weak reference to the model that owns this toolkit."""
        self._model = weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        # Neither a weak reference nor a lock can be pickled, and a copy belongs to another model.
        state = {**self.__dict__, "_model": _no_model}
        del state["gate"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.gate = Gate()

    def separate_connector(self) -> None:
        """Give merged frames a separate projector (MLP_n of Eq. 11 in ViLAMP).

        It starts as a copy of the stock projector, so nothing changes before it is trained.
        Keyframes keep the stock projector. Eq. 7 compares patches in one space, so keyframes that
        serve as references go through the vision tower twice: once for each projector.

        Raises:
            ValueError: There is a connector already, the family names no projector, or the toolkit
                belongs to no model (peft has copied it: call this before peft).
            RuntimeError: A call is running.
        """
        self.add_connector("separate")

    def merge_encoder_patches(self) -> None:
        """Merge non-keyframes from the frame encoder's patches.

        The vision tower then encodes the keyframes alone. The frame encoder computes the patches
        of all frames along with its embeddings; they are kept until the keyframes are known:
        N * P * C numbers of the model's dtype. They go through a new connector, which must be
        trained, together with the merger if that has parameters. If a slice has several frames,
        its first one is merged. Merged frames have no deepstack features.

        Raises:
            ValueError: There is a connector already, the encoder gives no patches, or the toolkit
                belongs to no model (peft has copied it: call this before peft).
            RuntimeError: A call is running.
        """
        self.add_connector("encoder_patches")
        warnings.warn(self.untrained_warnings()[-1], stacklevel=2)

    def add_connector(self, kind: str) -> None:
        """Add a connector of a kind without its warning; ``"stock"`` adds nothing."""
        kind = connector_kind(kind)
        if kind == "stock":
            return
        if self.connector is not None:
            raise ValueError(
                f"merged frames already have a connector ({self.connector_kind}), which they were "
                "trained with; wrap a stock model to give them another"
            )
        model = self._model()
        if model is None:
            raise ValueError(
                "this toolkit belongs to no model; add a connector to the vtc of the wrapped model "
                "itself, before peft copies model.vtc"
            )
        with self.gate.change("add a connector"):
            if kind == "separate":
                self.connector = Connector(model, self.adapter.projectors)
                return
            table = model.get_input_embeddings().weight
            blank = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
            width = self.encoder.encode_patches(blank)[1].shape[-1]
            new = PatchConnector(width, table.shape[-1])
            self.connector = new.to(input_device(model), table.dtype)
            self.note_new("connector")

    @property
    def connector_kind(self) -> ConnectorKind:
        """How merged frames are projected: see `separate_connector`, `merge_encoder_patches`."""
        if self.connector is None:
            return "stock"
        new = isinstance(active_module(self.connector), PatchConnector)
        return "encoder_patches" if new else "separate"

    def configure(self, **options: Any) -> None:
        """Set options of the adapter, which control how the model reads a compressed video.

        Other options keep their values. ``vtc parts`` lists the options of each family.

        Raises:
            ValueError: An option is unknown to this family, or a value is out of range.
            RuntimeError: A call is running.
        """
        family = type(self.adapter)
        label = f"adapter {family.__name__}"
        options = with_new_names(family, label, options)
        adapter = make(family, label, {**config_values(self.adapter), **options})
        with self.gate.change("configure the adapter"):
            self.adapter = adapter

    def extra_repr(self) -> str:
        return (
            f"selector={self.describe(self.selector)}, adapter={self.adapter.config}, "
            f"encoder={self.encoder!r}, chunk_slices={self.chunk_slices}, "
            f"prefill_chunk={self.prefill_chunk}"
        )

    def describe(self, part: FrameSelector | TokenMerger | TokenBudget) -> dict[str, Any]:
        """Return a part's name and options, or the name of its class if it is not registered."""
        part = active_module(part)
        if registry.is_registered(part):
            return registry.spec_of(part)
        return {"name": type(part).__name__}  # an instance of an unregistered class

    def name_of(self, part: FrameSelector | TokenMerger) -> str:
        """Return the name of a part for messages."""
        return str(self.describe(part)["name"])

    def build_merger(self, model: Any) -> None:
        """Create the merger's parameters, once, on the device of the language model's inputs."""
        self.merger_is_new = not any(True for _ in self.merger.parameters())
        table = model.get_input_embeddings().weight
        if self.merger_is_new:  # an instance may already be built and trained
            width = table.shape[-1]
            query_width = self.encoder.dim if takes_text_embedding(self.merger) else width
            self.merger.build(width, query_width)
            self.merger.to(table.dtype)
        self.merger.to(input_device(model))
        if self.merger_is_new and self.merger.needs_training:
            self.note_new("merger")

    def note_new(self, name: str) -> None:
        """Record that the ``merger`` or the ``connector`` is untrained in its present state."""
        self._new_sums[name] = _sums(getattr(self, name))

    def untrained(self) -> list[str]:
        """Return the names of ``merger`` and ``connector`` if they need training and had none.

        LoRA on a component counts as training once its second factor is no longer zero.
        """
        return [name for name in self._drawn() if not _lora_has_learned(getattr(self, name))]

    def _drawn(self) -> list[str]:
        """Return the components whose own parameters still have their random initial values."""
        return [name for name, sums in self._new_sums.items() if _sums(getattr(self, name)) == sums]

    def untrained_warnings(self) -> list[str]:
        """Return a warning for each untrained component."""
        names = {
            "merger": f"merger {self.name_of(self.merger)!r}",
            "connector": "the connector of the frame encoder's patches",
        }
        return [
            f"{names[name]} has untrained parameters: its tokens mean nothing until it is trained"
            for name in self.untrained()
        ]


def connector_kind(kind: str) -> ConnectorKind:
    """Return the kind of connector for a name, which may be a deprecated one.

    Raises:
        ValueError: The name is unknown.
    """
    if kind == "trained":
        warn_renamed("connector='trained'", "connector='encoder_patches'")
        return "encoder_patches"
    if kind in get_args(ConnectorKind):
        return cast("ConnectorKind", kind)
    raise ValueError(
        f"expected connector to be 'stock', 'separate' or 'encoder_patches', got {kind!r}"
    )


def _sums(module: Any) -> tuple[float, ...]:
    """Return the sum of each parameter, to detect changes.

    Parameters of LoRA and those on the meta device are skipped. If a parameter is sharded over
    processes, only this process's shard counts.
    """
    named = active_module(module).named_parameters()
    values = [parameter.detach() for name, parameter in named if "lora_" not in name]
    here = [value.to_local() if hasattr(value, "to_local") else value for value in values]
    return tuple(float(value.float().sum()) for value in here if not value.is_meta)


def _no_model() -> None:
    """Stand in for the model of a toolkit without one."""


def _has_lora(module: Any) -> bool:
    return any("lora_" in name for name, _ in active_module(module).named_parameters())


def _lora_has_learned(module: Any) -> bool:
    """Return whether LoRA changes what a module computes: its second factor starts at zero."""
    named = active_module(module).named_parameters()
    return any("lora_B" in name and bool(factor.detach().any()) for name, factor in named)


def _warn_of_lora_on_drawn(toolkit: Toolkit, *_: Any) -> None:
    """Warn, when a state dict is made, that a LoRA adapter will not contain random base weights."""
    for name in toolkit._drawn():
        if _has_lora(getattr(toolkit, name)):
            warnings.warn(
                f"LoRA is on the {name}, whose own weights are random. An adapter holds only "
                "LoRA's weights, so it will be loaded onto other random weights: leave the "
                f"{name} out of target_modules (or use exclude_modules) and train it whole with "
                "LoraConfig(modules_to_save=['vtc'])",
                stacklevel=2,
            )
