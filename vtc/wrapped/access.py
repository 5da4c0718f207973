"""Access the toolkit of a wrapped model, disable it, and read its latest report."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torch import nn

from vtc.pipeline.modules import active_module

if TYPE_CHECKING:
    from vtc.pipeline.report import Report
    from vtc.pipeline.toolkit import Toolkit


class _Switch:
    """One ``with vtc.disabled(model)`` block: the model, and whether the block is running."""

    def __init__(self, model: Any) -> None:
        self.model = id(model)
        self.active = True


_disabled: ContextVar[tuple[_Switch, ...]] = ContextVar("vtc_disabled", default=())
_stock_start = threading.Thread.start
_blocks = 0
_blocks_lock = threading.Lock()


def stock_model(model: Any) -> Any:
    """Return the Hugging Face model inside a peft or compiled model, or the model itself.

    Raises:
        TypeError: It is not a Hugging Face model.
    """
    model = getattr(model, "_orig_mod", model)  # set by torch.compile
    if hasattr(type(model), "get_base_model"):  # a peft model
        return model.get_base_model()
    # Look at the class: FSDP and DeepSpeed forward attributes to the model inside.
    if not hasattr(type(model), "config_class") or not isinstance(model, nn.Module):
        inside = "; pass its .module" if hasattr(model, "module") else ""
        raise TypeError(f"expected a Hugging Face model, got {type(model).__name__}{inside}")
    return model


def own_toolkit(model: nn.Module) -> Toolkit | None:
    """Return the toolkit of a stock model that `wrap` added; None for a model without one.

    It is looked up on each use, because peft may replace it.
    """
    module = model._modules.get("vtc")
    if module is None or not hasattr(type(model), "vtc_stock_class"):
        return None
    toolkit: Toolkit = active_module(module)
    return toolkit


def toolkit_of(model: Any) -> Toolkit:
    """Return the toolkit that `wrap` added to a model, or to the model inside a peft model.

    Raises:
        ValueError: The model is not wrapped.
    """
    target = stock_model(model)
    toolkit = own_toolkit(target)
    if toolkit is None:
        raise ValueError(f"this {type(target).__name__} is not wrapped; call vtc.wrap(model) first")
    return toolkit


def is_wrapped(model: Any) -> bool:
    """Return whether ``vtc.wrap`` was applied to a model, or to the model inside a peft model."""
    return own_toolkit(stock_model(model)) is not None


def last_report(model: Any) -> Report:
    """Return the report of the latest call of a wrapped model in this thread.

    In a generation loop of the caller, the steps that continue from a cache keep the report of
    the prompt.

    Raises:
        ValueError: The model is not wrapped, or the latest call of this thread compressed no video.
    """
    report = toolkit_of(model).report
    if report is None:
        raise ValueError(
            "there is no report: this thread has not called the model yet, or its latest call "
            "had no video to compress"
        )
    return report


def is_enabled(model: Any) -> bool:
    """Return False in a ``vtc.disabled`` block, also in threads that are started inside it."""
    return not any(switch.active and switch.model == id(model) for switch in _disabled.get())


@contextmanager
def disabled(model: Any) -> Iterator[None]:
    """Run a wrapped model as the stock model: ``with vtc.disabled(model): ...``

    It applies to this thread and to threads started in the block. Other threads, such as those of
    an existing pool, are not affected.

    Raises:
        ValueError: The model is not wrapped.
    """
    toolkit_of(model)
    with while_disabled(stock_model(model)):
        yield


@contextmanager
def while_disabled(model: Any) -> Iterator[None]:
    """Disable the toolkit of a stock model in this context."""
    switch = _Switch(model)
    token = _disabled.set((*_disabled.get(), switch))
    _inherit(+1)
    try:
        yield
    finally:
        _inherit(-1)
        switch.active = False
        _disabled.reset(token)


def _inherit(change: int) -> None:
    """Make threads started in a ``disabled`` block inherit the switches of their parent.

    Python 3.14 can do this itself (``thread_inherit_context``); until then
    `threading.Thread.start` is replaced while a block runs.
    """
    global _blocks
    with _blocks_lock:
        _blocks += change
        if _blocks == 1 and change == 1 and threading.Thread.start is _stock_start:
            threading.Thread.start = _start_with_switches  # type: ignore[method-assign, assignment]
        elif _blocks == 0 and threading.Thread.start is _start_with_switches:
            threading.Thread.start = _stock_start  # type: ignore[method-assign]


@functools.wraps(_stock_start)
def _start_with_switches(thread: threading.Thread) -> None:
    switches, run = _disabled.get(), thread.run
    if switches:

        def run_with_switches() -> None:
            _disabled.set(switches)
            run()

        thread.run = run_with_switches  # type: ignore[method-assign]
    _stock_start(thread)
