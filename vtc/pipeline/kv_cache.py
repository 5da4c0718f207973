"""The key-value cache of a call, whose name depends on the transformers version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE_NAME = "cache" if hasattr(BaseModelOutputWithPast, "cache") else "past_key_values"
"""The name of the argument of ``forward`` and ``generate``, and of the attribute of their results.

transformers 5.24 calls it ``cache``, and still accepts ``past_key_values`` with a warning.
"""


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """Return the cache that the stock model uses, among arguments of ``forward`` or ``generate``.

    If both names are given, the newer one counts. In versions of transformers without ``cache``,
    it is not read: ``generate`` refuses it, and ``forward`` ignores it.
    """
    return arguments.get(CACHE_NAME if CACHE_NAME in arguments else "past_key_values")


def returned_cache(output: Any) -> Any:
    """Return the cache of an output of ``forward`` or ``generate``; None without one."""
    return getattr(output, CACHE_NAME, None)


def cached_length(cache: Any) -> int:
    """Return the number of tokens that a cache holds; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())


def mark_shortened(cache: Any, restored_prompt: Tensor | None) -> None:
    """Mark a cache as one of a shortened prompt, and store the prompt that the caller was given.

    A continuation of that prompt, or one with its mask, does not fit the cache.
    """
    if cache is not None and not isinstance(cache, tuple):
        cache.vtc_is_shortened = True
        cache.vtc_restored_prompt = restored_prompt


def note_offsets(cache: Any, offsets: Tensor | None) -> None:
    """Store on a cache the offset of positions after it from the number of its tokens.

    transformers stores these offsets (``rope_deltas``) on the model, where calls in other threads
    overwrite them. The cache belongs to one caller.

    Args:
        offsets: ``[B, 1]`` int64; None if positions count tokens.
    """
    if cache is not None and not isinstance(cache, tuple) and offsets is not None:
        cache.vtc_offsets = offsets
