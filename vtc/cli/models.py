"""Options for the parts and the model of a command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from vtc.cli import options
from vtc.cli.show import loading_bars

_EXPONENT = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")


@dataclass(frozen=True)
class PartChoice:
    """A selector, merger or budget from the command line; without a name, the saved one."""

    default: str
    name: str | None
    options: dict[str, Any]

    @property
    def given(self) -> bool:
        """Whether the command line names the part or sets one of its options."""
        return self.name is not None or bool(self.options)

    def spec(self, saved: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the part in the form that ``vtc.wrap`` takes.

        A saved part keeps its options if the command line names the same part, because its weights
        may depend on them.
        """
        saved = saved or {"name": self.default}
        if self.name in (None, saved["name"]):
            return {**saved, **self.options}
        return {"name": str(self.name), **self.options}


def part_choice(
    default: str, name: str | None, options: Iterable[str], keyframes: int | None = None
) -> PartChoice:
    """Parse options such as ``--selector dks --selector-option fill=gaps --keyframes 8``.

    Raises:
        ValueError: An option is not of the form NAME=VALUE.
    """
    values = read_options(options)
    if keyframes is not None:
        if "keyframes" in values:
            raise ValueError("give either --keyframes or the option keyframes=, not both")
        values = {"keyframes": keyframes, **values}
    return PartChoice(default, name, values)


def read_options(options: Iterable[str]) -> dict[str, Any]:
    """Parse options of the form ``NAME=VALUE``, with values in YAML.

    Raises:
        ValueError: An option has another form.
    """
    import yaml

    values: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ValueError(f"option {option!r}: write NAME=VALUE, such as temperature=0.1")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"option {option!r}: the value is not valid YAML") from error
        if value == "None":
            values[key] = None
        if isinstance(values[key], str) and _EXPONENT.fullmatch(value):
            values[key] = float(value)  # PyYAML reads 1e-2 as text
    return values


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model, and the parts that it is wrapped with."""

    model: options.Model = options.DEFAULT_MODEL
    selector: options.Selector = None
    merger: options.Merger = None
    keyframes: options.Keyframes = None
    max_tokens: options.MaxTokens = None
    budget: options.Budget = None
    encoder: options.Encoder = None
    selector_option: options.SelectorOption = field(default_factory=list)
    merger_option: options.MergerOption = field(default_factory=list)
    budget_option: options.BudgetOption = field(default_factory=list)
    adapter_option: options.AdapterOption = field(default_factory=list)
    attn_implementation: options.AttnImplementation = None
    device: options.Device = "auto"
    device_map: options.DeviceMap = None
    dtype: options.Dtype = "auto"
    load_in_8bit: options.LoadIn8Bit = False
    load_in_4bit: options.LoadIn4Bit = False
    trust_remote_code: options.TrustRemoteCode = False

    @property
    def selector_choice(self) -> PartChoice:
        """The selector, its options and ``--keyframes``."""
        return part_choice("dks", self.selector, self.selector_option, self.keyframes)

    @property
    def merger_choice(self) -> PartChoice:
        """The merger and its options."""
        return part_choice("dfm", self.merger, self.merger_option)

    @property
    def budget_spec(self) -> dict[str, Any] | None:
        """The budget in the form that ``vtc.wrap`` takes; None for the one saved with the model.

        Raises:
            ValueError: The number of tokens is neither a whole number nor ``auto``, or is given
                twice.
        """
        choice = part_choice("even", self.budget, self.budget_option)
        if self.max_tokens is None:
            return choice.spec() if choice.given else None
        if not self.max_tokens.isdecimal() and self.max_tokens != "auto":
            raise ValueError(
                f"expected --max-tokens to be a whole number or auto, got {self.max_tokens!r}"
            )
        if "max_tokens" in choice.options:
            raise ValueError("give either --max-tokens or the option max_tokens=, not both")
        most = self.max_tokens if self.max_tokens == "auto" else int(self.max_tokens)
        return {**choice.spec(), "max_tokens": most}

    def open(self, quiet: bool = False) -> tuple[Any, Any]:
        """Open the model with its processor, wrapped; see `vtc.open_model`.

        Parts that the command line does not name are those saved with the model, or else the
        defaults of ``vtc.wrap``.

        Args:
            quiet: Show no progress while the weights are loaded.

        Raises:
            ValueError: Options contradict each other, or `vtc.open_model` refuses them.
            ImportError: A package is missing.
            OSError: The model cannot be read.
        """
        import transformers

        from vtc.wrapped.access import toolkit_of
        from vtc.wrapped.opening import open_model, saved_parts

        family, loading = read_options(self.adapter_option), self._loading_options()
        selector, merger = self.selector_choice, self.merger_choice
        transformers.utils.logging.set_verbosity_error()
        saved = saved_parts(self.model)
        with loading_bars(quiet):
            model, processor = open_model(
                self.model,
                selector=selector.spec(saved["selector"]) if selector.given else None,
                merger=merger.spec(saved["merger"]) if merger.given else None,
                encoder=self.encoder,
                device="auto" if "device_map" in loading else self.device,
                dtype=self.dtype,
                trust_remote_code=self.trust_remote_code,
                **loading,
            )
        toolkit_of(model).configure(**family)
        return model, processor

    def _loading_options(self) -> dict[str, Any]:
        """Return the budget and further arguments of the stock ``from_pretrained``."""
        loading: dict[str, Any] = {"budget": self.budget_spec}
        if self.attn_implementation is not None:
            loading["attn_implementation"] = self.attn_implementation
        if self.device_map is not None:
            if self.device != "auto":
                raise ValueError("expected --device or --device-map, got both")
            loading["device_map"] = self.device_map
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("expected --load-in-8bit or --load-in-4bit, got both")
        if self.load_in_8bit or self.load_in_4bit:
            loading["quantization_config"] = quantization(4 if self.load_in_4bit else 8)
            if self.device != "auto":
                loading["device_map"] = self.device  # such a model cannot be moved later
        return loading


def quantization(bits: int) -> Any:
    """Return the configuration of bitsandbytes that quantizes weights to 4 or 8 bits.

    Raises:
        ImportError: bitsandbytes or accelerate is missing.
    """
    import torch
    from transformers import BitsAndBytesConfig

    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise ImportError(
                f"--load-in-{bits}bit needs {package}, which is not installed; "
                f"pip install bitsandbytes accelerate"
            )
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
