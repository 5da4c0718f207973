"""Counters for running code: multiply-accumulates, and numbers held in memory."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {"mm", "bmm", "mv", "dot"}
_ADDED_PRODUCTS = {"addmm", "baddbmm", "addmv"}
_HALVES = {"mul", "div", "pow"}
_SUMS = {"sum", "mean"}


class MultiplyAccumulates(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-accumulates: one multiplication with its addition.

    Counts matrix products, attention (both products), distances and vector norms in full;
    elementwise products, quotients and powers (by their results) and sums and means (by their
    inputs) at half.
    So a dot product counts the same as a matrix product or as an elementwise product and its sum.
    Does not count elementwise additions, comparisons, sorting, exponentials, copies and
    normalisation layers.
    """

    count = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += _cost(func.overloadpacket.__name__.strip("_"), args, result)
        return result


def _cost(name: str, args: Any, result: Any) -> float:
    if name in _PRODUCTS:
        return float(result.numel() * args[0].shape[-1])
    if name in _ADDED_PRODUCTS:
        return float(result.numel() * args[1].shape[-1])
    if "scaled_dot_product" in name:
        query, key, value = args[:3]
        pairs = prod(query.shape[:-1]) * key.shape[-2]
        return float(pairs * (query.shape[-1] + value.shape[-1]))
    if name == "cdist_forward":
        return float(result.numel() * args[0].shape[-1])
    if name == "linalg_vector_norm":
        return float(args[0].numel())
    if name in _HALVES:
        return float(result.numel() / 2)
    if name in _SUMS:
        return float(args[0].numel() / 2)
    return 0.0


class LiveNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the peak of numbers alive at once among the results of operations.

    Earlier tensors do not count; results that are still alive at the end do. A number counts once,
    regardless of its width. Memory inside an operation is not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def size(self, tensor: Tensor) -> int:
        """Return the size of a result."""
        return tensor.numel()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {storage_key(x) for x in tensors_in((args, list((kwargs or {}).values())))}
        for tensor in tensors_in(result):
            # A view or an in-place operation allocates nothing.
            if storage_key(tensor) not in inputs and storage_key(tensor) not in self._alive:
                held = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
                self._alive[storage_key(tensor)] = (held, self.size(tensor))
        self._alive = {key: held for key, held in self._alive.items() if not _freed(held[0])}
        self.peak = max(self.peak, sum(numbers for _, numbers in self._alive.values()))
        return result


class LiveBytes(LiveNumbers):  # type: ignore[no-untyped-call]
    """Records the peak of bytes alive at once, like `LiveNumbers` for numbers."""

    def size(self, tensor: Tensor) -> int:
        return int(tensor.untyped_storage().nbytes())


def storage_key(tensor: Tensor) -> int:
    """Return a key that is equal for tensors that share memory."""
    return int(tensor.untyped_storage()._cdata)


def _freed(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


def tensors_in(values: Any) -> list[Tensor]:
    """Return the tensors in nested tuples and lists."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in tensors_in(value)]
    return []
