"""Count the operations inside a context: FLOPs, MACs of layers, bytes, and memory.

The meta device computes nothing and needs no weights, so a model of any size can be counted by
running it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, register_flop_formula

from vtc.profiler.counters import LiveBytes, storage_key, tensors_in

COUNTED_ATTENTION = "vtc_counted"
"""The ``attn_implementation`` of counted models: one operation, like a fused kernel."""


@dataclass
class Cost:
    """The cost of some work.

    Attributes:
        flops: FLOPs of matrix products, convolutions and attention; two per multiply-accumulate.
        linear_macs: Multiply-accumulates of ``nn.Linear`` and ``nn.Conv*`` only.
        bytes_moved: Bytes read and written by the operations, without caches and fusion, except
            that attention reads queries, keys and values once.
        peak_memory: The peak of bytes alive at once among the results.
    """

    flops: float = 0.0
    linear_macs: float = 0.0
    bytes_moved: float = 0.0
    peak_memory: float = 0.0

    @property
    def macs(self) -> float:
        """Multiply-accumulates: half of ``flops``."""
        return self.flops / 2

    def times(self, factor: float) -> Cost:
        """Return the cost of the same work done ``factor`` times in a row."""
        peak = self.peak_memory if factor else 0.0
        return Cost(self.flops * factor, self.linear_macs * factor, self.bytes_moved * factor, peak)

    def then(self, other: Cost) -> Cost:
        """Return the cost of this work followed by another."""
        return Cost(
            self.flops + other.flops,
            self.linear_macs + other.linear_macs,
            self.bytes_moved + other.bytes_moved,
            max(self.peak_memory, other.peak_memory),
        )


@contextmanager
def counting() -> Iterator[Cost]:
    """Count the operations in the ``with`` block; the cost is filled in at its end.

    >>> with counting() as cost:
    ...     _ = torch.empty(4, 8, device="meta") @ torch.empty(8, 2, device="meta")
    >>> cost.flops
    128.0
    """
    cost = Cost()
    operations, live = _Operations(), LiveBytes()

    def count_layer(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.Linear):
            cost.linear_macs += output.numel() * module.in_features
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            cost.linear_macs += output.numel() * module.weight[0].numel()

    hook = nn.modules.module.register_module_forward_hook(count_layer)
    try:
        with torch.no_grad(), live, operations:
            yield cost
    finally:
        hook.remove()
    cost.flops, cost.bytes_moved = float(operations.flops), float(operations.bytes_moved)
    cost.peak_memory = float(live.peak)


class _Operations(TorchDispatchMode):
    """Counts FLOPs with torch's formulas, and bytes read and written."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.bytes_moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _on_one_device(args, kwargs or {})
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=result)
        self.bytes_moved += _bytes(func, tensors_in((args, list(kwargs.values()))), result)
        return result


def _on_one_device(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Move small CPU tensors, such as positions, to meta if other tensors are on meta."""
    tensors = tensors_in((args, list(kwargs.values())))
    if len({tensor.is_meta for tensor in tensors}) < 2:
        return args, kwargs
    moved: tuple[Any, Any] = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    return moved


def _bytes(func: Any, inputs: list[Tensor], result: Any) -> int:
    outputs = tensors_in(result)
    keys = {storage_key(tensor) for tensor in inputs}
    is_view = not func._schema.is_mutable and all(storage_key(out) in keys for out in outputs)
    if is_view or "empty" in func.overloadpacket.__name__:
        return 0
    return sum(_held(tensor) for tensor in (*inputs, *outputs))


def _held(tensor: Tensor) -> int:
    """Return the bytes of a tensor; an expanded one is read once."""
    return int(min(tensor.nbytes, tensor.untyped_storage().nbytes()))


# --- attention


@torch.library.custom_op("vtc::counted_attention", mutates_args=())
def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    raise RuntimeError(f"attn_implementation={COUNTED_ATTENTION!r} counts on the meta device only")


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


@register_flop_formula(torch.ops.vtc.counted_attention)
def _attention_flops(query: Any, key: Any, value: Any, **_: Any) -> int:
    """Count both products for every pair of query and key, including masked ones."""
    return int(2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Map ``[B, H, L, D]`` queries, keys and values to ``[B, L, H, D]``, as transformers does."""
    return torch.ops.vtc.counted_attention(query, key, value).transpose(1, 2), None


def register_attention() -> None:
    """Register `COUNTED_ATTENTION` with transformers, without a mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(COUNTED_ATTENTION, _attention_forward)
